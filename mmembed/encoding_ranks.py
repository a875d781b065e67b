"""How do several processes share one encoding? Who does what, what the first one tells, and that none waits for the dead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from mmembed.data.schema import DataError
from mmembed.distributed import LaunchError, rank, world_size

ResultT = TypeVar("ResultT")

# One process may be hours behind another; one that is gone is known by its closed connection, not by the clock.
_PATIENCE = timedelta(days=7)


class Ranks:
    """The processes that encode one table into one folder.

    Args:
        group: a group that can wait for long; None for one process alone.

    Example:
        >>> alone = Ranks(None)
        >>> alone.number, alone.count, alone.share([3, 4, 5]), alone.from_first(lambda: "plan"), alone.gather(1)
        (0, 1, [3, 4, 5], 'plan', [1])
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.number = rank() if group is not None else 0
        self.count = world_size() if group is not None else 1

    def share(self, work: list[int]) -> list[int]:
        """What of some work, the same list in every process, this one does."""
        return work[self.number :: self.count]

    def from_first(self, compute: Callable[[], ResultT]) -> ResultT:
        """What the first process finds; what is wrong for the first is wrong for all.

        Args:
            compute: called by the first process alone.

        Returns:
            Its result, in every process.

        Raises:
            DataError: The first process raised one.
            LaunchError: The first process failed otherwise, or is gone.
        """
        if self.group is None:
            return compute()
        if self.number:
            told: list[Any] = [None, "", ""]
            self._wait(lambda: dist.broadcast_object_list(told, src=0, group=self.group))
            result, kind, message = told
            if kind == "data":
                raise DataError(message)
            if kind:
                raise LaunchError(f"the first process failed: {message}")
            return result
        try:
            result = compute()
        except Exception as error:
            told = [None, "data" if isinstance(error, DataError) else "other", f"{error}"]
            with contextlib.suppress(RuntimeError):  # another is gone too; what went wrong here is what counts
                dist.broadcast_object_list(told, src=0, group=self.group)
            raise
        self._wait(lambda: dist.broadcast_object_list([result, "", ""], src=0, group=self.group))
        return result

    def gather(self, value: ResultT) -> list[ResultT]:
        """The value of each process, in every process.

        Raises:
            LaunchError: One of them is gone.
        """
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.count
        self._wait(lambda: dist.all_gather_object(values, value, group=self.group))
        return values

    def _wait(self, talk: Callable[[], Any]) -> None:
        try:
            talk()
        except RuntimeError as error:
            raise LaunchError(
                f"process {self.number} of {self.count} lost another one, which ended before its share was done: see its "
                f"message; what is whole stays, and the same command goes on ({str(error).splitlines()[0][:200]})"
            ) from error


@contextlib.contextmanager
def ranks_together(across_ranks: bool = True) -> Iterator[Ranks]:
    """The processes of the running group, who all come here; this one alone where there is no group.

    Args:
        across_ranks: False: this process by itself, whatever runs beside it.

    Yields:
        Who takes part.
    """
    if not across_ranks or world_size() == 1:
        yield Ranks(None)
        return
    # Gloo beside whatever the models use: it carries plain objects, and tells at once when a connection is closed.
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    yield Ranks(group)
    dist.destroy_process_group(group)
