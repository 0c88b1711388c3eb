// What a test does with a page: `show(props)` renders it with these, `heard` is what callbacks were told.

export interface Props {
  bridge?: string;
  /** The tasks that have a component each. */
  tasks: (string | null)[];
  /** The tasks of one component. */
  list?: string[];
  token?: string;
}

declare global {
  interface Window {
    heard: [kind: string, who: string, what: string][];
    opened: number;
    show: (props: Props) => void;
  }
}

window.heard = [];
window.opened = 0;

// Every connection is counted, whichever way it is made.
const plainFetch = window.fetch;
window.fetch = (...asked) => {
  window.opened += 1;
  return plainFetch(...asked);
};
window.EventSource = class extends EventSource {
  constructor(url: string | URL, init?: EventSourceInit) {
    super(url, init);
    window.opened += 1;
  }
};

export const described = (view: { state: { status: string; progress: number | null } | null; notice: { code: string } | null; error: Error | null }) =>
  [view.state?.status, view.state?.progress, view.notice?.code, view.error?.name].map((part) => part ?? "-").join(" ");
