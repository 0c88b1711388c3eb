import React, { useEffect, useReducer, useState } from "react";
import { etaText } from "task-event-bridge/eta";
import { useTask } from "./useTask.js";

/** A progress bar, the status, and finally the results. */
export function TaskProgress({ task, address }) {
  const { state, notice, error } = useTask(task, address);
  const [, draw] = useReducer((seconds) => seconds + 1, 0);
  useEffect(() => {
    const timer = setInterval(draw, 1000); // the time left counts down between two states
    return () => clearInterval(timer);
  }, []);
  if (error) return <p role="alert">{error.message}</p>;
  if (!state) return <p role="status">Loading…</p>;

  const { status, progress, outputs } = state;
  return (
    <figure>
      <progress max={100} value={progress ?? undefined} aria-label={task} />
      <figcaption role="status">
        {state.error?.message ?? [status, etaText(state)].filter(Boolean).join(", ")}
        {notice && <small> ({notice.message ?? notice.code})</small>}
      </figcaption>
      {outputs.map(({ type, url }, number) => <Output key={url ?? number} type={type} url={url} />)}
    </figure>
  );
}

/** A result: a player, or the reason why there is none. */
function Output({ type, url }) {
  const [broken, setBroken] = useState(false); // an expired link, a format that this browser does not play
  const shown = { src: url, onError: () => setBroken(true) };
  if (!url) return <p>The provider does not hand out this {type}.</p>;
  if (broken) return <p>This {type} cannot be shown here. <a href={url}>Open it</a></p>;
  if (type === "image") return <img {...shown} alt="the result" />;
  if (type === "video") return <video {...shown} controls />;
  if (type === "audio") return <audio {...shown} controls />;
  return <a href={url}>the result</a>;
}
