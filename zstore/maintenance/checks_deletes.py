"""Lists of deleted keys: each as its commit wrote it, and no row of them in a version that opened after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zstore.commits.deletes import index_of, matching, read_deletes
from zstore.commits.log import Log
from zstore.errors import Corrupt, FormatError, NotFound
from zstore.format.extents import Extents
from zstore.maintenance.checks_columns import Problem
from zstore.maintenance.checks_log import sentence
from zstore.maintenance.story import Story


@dataclass
class DeletesCheck:
    """Checks what the records of ``story`` name."""

    log: Log
    story: Story

    def problem(self, text: str) -> str | None:
        """What is wrong with one list. Nothing that is left tells its keys, so none can be made again."""
        try:
            found = read_deletes(self.log, text, self.story.store_id)
        except Corrupt as error:
            return sentence(error)
        except FormatError as error:
            return str(error)
        except OSError as error:
            return f"it can't be read: {error}"
        before = [version for version in self.story.deletes if version < found.version]
        if found.previous != (self.story.deletes[max(before)] if before else None):
            return "it does not go on from the list of the commit that deleted before it"
        if found.length != self.story.lengths[found.version]:
            return "it states another length than its commit"
        return None

    def rows_problems(self, version: int, source: int) -> Iterator[Problem]:
        """What the opening ``version`` names, against the rows of ``source`` less those whose keys were deleted since."""
        try:
            record, origin = self.log.read(version), self.log.read(source)
            index, gone = index_of(self.log, origin), Extents()
            for number, text in self.story.deletes.items():
                if source < number <= version:
                    deletes = read_deletes(self.log, text, self.story.store_id)
                    gone = gone | matching(index, deletes.keys, deletes.length)
        except (OSError, FormatError, NotFound):
            return              # a finding of its own
        back, lost = record.extents & gone, origin.extents - gone - record.extents
        if len(back):
            yield "it names rows whose keys were deleted", back
        if len(lost):
            yield "it lacks rows that were never deleted", lost
