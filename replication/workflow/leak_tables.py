"""The leak check of a tier: one table for each of its protocols."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from replication.data.batches import PreparedData
from replication.data.leaks import LeakCheck, check_leaks
from replication.errors import ConfigError
from replication.files import atomic
from replication.workflow.plan import Workspace, protocols


@dataclass(frozen=True)
class ProtocolLeaks:
    """What the images of a protocol share with each other and with those of pre-training.

    Attributes:
        protocol: id. path: of the table. table: columns of ``replication.data.leaks.COLUMNS``.
    """

    protocol: str
    path: Path
    table: pd.DataFrame

    @property
    def leaks(self) -> bool:
        """Whether anything that is shared is a leak."""
        return bool(self.table["leak"].any())


def leak_tables(
    workspace: Workspace, protocol_ids: Sequence[str] = (), *, progress: bool = True
) -> Iterator[ProtocolLeaks]:
    """Compare the data of each protocol with themselves and with the tier's pre-training data.

    The tables go to ``leaks/<protocol>.csv`` in the tier's results, the records that scoring looks up beside
    the prepared data. What several protocols have in common is compared once.

    Args:
        protocol_ids: some of the tier's protocols; empty takes all.

    Raises:
        ConfigError: a protocol is not of the tier. DataError: data are not prepared as a protocol says.
    """
    known = {protocol.id: protocol for protocol in protocols(workspace.tier)}
    if unknown := sorted(set(protocol_ids) - set(known)):
        raise ConfigError(
            "The tier has no such protocol.",
            where=f"tier {workspace.tier.name}",
            found=unknown,
            allowed=sorted(known),
        )
    opened: dict[str, PreparedData] = {}
    checks: dict[tuple[str, str], LeakCheck] = {}

    def data(name: str) -> PreparedData:
        if name not in opened:
            opened[name] = PreparedData.open(workspace.prepared(name), allow_leaks=True)
        return opened[name]

    def check(first: str, second: str) -> pd.DataFrame:
        if (first, second) not in checks:
            found = check_leaks(data(first), None if first == second else data(second), progress=progress)
            found.write()
            checks[first, second] = found
        return checks[first, second].table

    for chosen in protocol_ids or known:
        protocol = known[chosen]
        data(protocol.dataset).check_protocol(protocol)
        others = dict.fromkeys([protocol.dataset, workspace.tier.pretrain])
        table = pd.concat([check(protocol.dataset, other) for other in others], ignore_index=True)
        path = workspace.results / "leaks" / f"{protocol.id.replace('/', '--')}.csv"
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False)
        yield ProtocolLeaks(protocol.id, path, table)
