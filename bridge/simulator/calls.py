"""Counts the calls received, by provider, call and task."""


class CallCounts:
    def __init__(self) -> None:
        self._counts: dict[str, dict[str, dict[str, int]]] = {}

    def count(self, provider: str, call: str, task_id: str) -> None:
        kinds = self._counts.setdefault(provider, {})
        tasks = kinds.setdefault(call, {})
        tasks[task_id] = tasks.get(task_id, 0) + 1

    def report(self, task_id: str | None = None) -> dict[str, dict[str, object]]:
        """Return the counts per task, and under `total` the sum per provider and call."""
        report: dict[str, dict[str, object]] = {}
        total: dict[str, object] = {}
        for provider, kinds in self._counts.items():
            chosen = {kind: _chosen(tasks, task_id) for kind, tasks in kinds.items()}
            chosen = {kind: tasks for kind, tasks in chosen.items() if tasks}
            report[provider] = dict(chosen)
            total[provider] = {kind: sum(tasks.values()) for kind, tasks in chosen.items()}
        report["total"] = total
        return report

    def forget(self, provider: str, task_id: str) -> None:
        for tasks in self._counts.get(provider, {}).values():
            tasks.pop(task_id, None)

    def reset(self) -> None:
        self._counts.clear()


def _chosen(tasks: dict[str, int], task_id: str | None) -> dict[str, int]:
    if task_id is None:
        return dict(tasks)
    return {name: count for name, count in tasks.items() if name == task_id}
