"""V-API's payloads: one shape per vendor behind it (seed 002 and the vendors' query pages)."""

from collections.abc import Callable, Mapping

import orjson

from bridge.simulator.files import file_url
from bridge.simulator.lifecycle import Media, Stage, seeded_random
from bridge.simulator.tasks import Json, Task, TaskView, digits

# Seed 002: `Success, Processing, Failed`; the same page's callbacks are in lower case.
RELAY_WORDS = {
    Stage.QUEUED: "Processing",
    Stage.RUNNING: "Processing",
    Stage.COMPLETED: "Success",
    Stage.FAILED: "Failed",
}
# MiniMax's own words (platform.minimax.io, query page), for `sim.shape.words` = `native`.
MINIMAX_WORDS = {
    Stage.QUEUED: "Queueing",
    Stage.RUNNING: "Processing",
    Stage.COMPLETED: "Success",
    Stage.FAILED: "Fail",
}
# The Jimeng page names only `done`; the others are Volcengine's, and `failed` is a guess.
JIMENG_WORDS = {
    Stage.QUEUED: "in_queue",
    Stage.RUNNING: "generating",
    Stage.COMPLETED: "done",
    Stage.FAILED: "failed",
}
KLING_WORDS = {
    Stage.QUEUED: "submitted",
    Stage.RUNNING: "processing",
    Stage.COMPLETED: "succeed",
    Stage.FAILED: "failed",
}
VENDORS = {
    "minimax": "minimax",
    "hailuo": "minimax",
    "keling": "keling",
    "jimeng": "jimeng",
    "kling": "kling",
}
JIMENG_OK = 10000
FAILURE = "The content did not pass the review"


class VendorPayloads:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._by_vendor: Mapping[str, Callable[[Task, TaskView], Json]] = {
            "minimax": self._minimax,
            "keling": self._keling,
            "jimeng": self._jimeng,
            "kling": self._kling,
        }

    def status(self, task: Task, view: TaskView) -> Json:
        return self._by_vendor[task.vendor](task, view)

    def callback(self, task: Task, view: TaskView) -> Json:
        """Return the query payload with the status word in lower case (Hailuo page)."""
        shown = self.status(task, view)
        data = shown.get("data")
        holder = data if isinstance(data, dict) else shown
        for name in ("status", "task_status"):
            if isinstance(word := holder.get(name), str):
                holder[name] = word.lower()
        return shown

    def submitted(self, task: Task) -> Json:
        """The Hailuo page shows the flat form; the others follow their own query envelopes."""
        match task.vendor:
            case "kling":
                view = TaskView(stage=Stage.QUEUED, progress=0, at=task.created_at)
                return self._kling(task, view)
            case "keling":
                return {"code": 0, "data": {"task_id": task.id}, "message": "success", **self._tail(task)}
            case "jimeng":
                return {
                    "code": JIMENG_OK,
                    "data": {"task_id": task.id},
                    "message": "Success",
                    **self._tail(task),
                }
            case _:
                return {"task_id": task.id, "base_resp": {"status_code": 0, "status_msg": "success"}}

    def error(self, vendor: str) -> Json:
        """Return an error with HTTP 200: the vendor's code is not its success code."""
        match vendor:
            case "kling":
                return {"code": 5000, "message": "Internal server error", "request_id": "req-error"}
            case "keling":
                return {"code": 500, "data": None, "message": "Internal server error", "status": 500}
            case "jimeng":
                return {"code": 50500, "data": None, "message": "Internal Error", "request_id": "req-error"}
            case _:
                return {"base_resp": {"status_code": 1000, "status_msg": "unknown error"}}

    def file_id(self, task: Task) -> str:
        return digits(seeded_random(self._seed, "vapi", task.number, "file"))

    def download(self, task: Task) -> Json:
        """MiniMax's `/v1/files/retrieve` (its own docs); seed 002 calls it the download API."""
        file = {
            "file_id": self.file_id(task),
            "bytes": 5896337,
            "created_at": int(task.ends_at),
            "filename": "output_aigc.mp4",
            "purpose": "video_generation",
            "download_url": file_url(task),
        }
        return {"file": file, "base_resp": {"status_code": 0, "status_msg": "success"}}

    def _minimax(self, task: Task, view: TaskView) -> Json:
        """Flat, as in the example of seed 002, which contradicts its own field table."""
        words = MINIMAX_WORDS if task.shape.get("words") == "native" else RELAY_WORDS
        failed = view.stage is Stage.FAILED
        base = (
            {"status_msg": FAILURE, "status_code": 1027}
            if failed
            else {"status_msg": "success", "status_code": 0}
        )
        shown: Json = {"status": view.word or words[view.stage]}
        if view.stage is Stage.COMPLETED:
            shown["file_id"] = self.file_id(task)
        shown |= {"task_id": task.id, "base_resp": base}
        if view.stage is Stage.COMPLETED:
            shown |= {"video_width": 768, "video_height": 1152}
        return shown

    def _keling(self, task: Task, view: TaskView) -> Json:
        """As in the field table of seed 002: everything in `data`, and an integer `status` beside it."""
        done = view.stage is Stage.COMPLETED
        image = task.media is Media.IMAGE
        return {
            "code": 0,
            "data": {
                "status": view.word or RELAY_WORDS[view.stage],
                "resp_data": "",
                "video_url": file_url(task) if done and not image else "",
                "image_urls": [file_url(task)] if done and image else None,
                "binary_data_base64": [],
            },
            "status": 200,
            "message": FAILURE if view.stage is Stage.FAILED else "success",
            **self._tail(task),
        }

    def _jimeng(self, task: Task, view: TaskView) -> Json:
        """Success is code 10000, and `resp_data` is JSON inside a string (Jimeng page)."""
        done = view.stage is Stage.COMPLETED
        result = (
            {"video_url": file_url(task)}
            if task.media is not Media.IMAGE
            else {"image_urls": [file_url(task)]}
        )
        return {
            "code": JIMENG_OK,
            "data": {
                "status": view.word or JIMENG_WORDS[view.stage],
                "resp_data": orjson.dumps(result).decode() if done else "",
                "video_url": "",
                "image_urls": None,
                "binary_data_base64": [],
            },
            "status": JIMENG_OK,
            "message": FAILURE if view.stage is Stage.FAILED else "Success",
            **self._tail(task),
        }

    def _kling(self, task: Task, view: TaskView) -> Json:
        """Kling's own format, times in milliseconds (official-format query page)."""
        position = max(0, task.position(view.at))
        data: Json = {
            "task_id": task.id,
            "task_status": view.word or KLING_WORDS[view.stage],
            "task_status_msg": FAILURE if view.stage is Stage.FAILED else "",
            "created_at": int(task.created_at * 1000),
            "updated_at": int(task.transitions[position][0] * 1000),
        }
        if view.stage is Stage.COMPLETED:
            item: Json = {"id": self.file_id(task), "url": file_url(task)}
            video = task.media is not Media.IMAGE
            data["task_result"] = {"videos": [{**item, "duration": "5"}]} if video else {"images": [item]}
        return {"code": 0, "message": "SUCCEED", "request_id": self._request_id(task), "data": data}

    def _tail(self, task: Task) -> Json:
        return {"request_id": self._request_id(task), "time_elapsed": "58.2ms"}

    def _request_id(self, task: Task) -> str:
        return f"req-{seeded_random(self._seed, 'vapi', task.number, 'request').getrandbits(64):016x}"
