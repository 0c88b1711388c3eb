import { useTask } from "./useTask.js";

/** A progress bar, the status, and finally the results. */
export function TaskProgress({ task, address }) {
  const { state, notice, error } = useTask(task, address);
  if (error) return <p role="alert">{error.message}</p>;
  if (!state) return <p role="status">Loading…</p>;

  const { status, progress, eta_seconds: left, outputs } = state;
  return (
    <figure>
      <progress max={100} value={progress ?? undefined} aria-label={task} />
      <figcaption role="status">
        {state.error?.message ?? (left ? `${status}, about ${Math.round(left)} s left` : status)}
        {notice && <small> ({notice.message ?? notice.code})</small>}
      </figcaption>
      {outputs.map(({ type, url }) => url && <Output key={url} type={type} url={url} />)}
    </figure>
  );
}

function Output({ type, url }) {
  if (type === "image") return <img src={url} alt="the result" />;
  if (type === "video") return <video src={url} controls />;
  if (type === "audio") return <audio src={url} controls />;
  return <a href={url}>the result</a>;
}
