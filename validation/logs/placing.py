"""On which GPUs of the user's machine a run ran: hosts are its machines in order, devices the GPUs in each.

Where rank lines say nothing of it, the first GPUs are meant, as nccl-tests takes them.
"""

from collections.abc import Sequence

from thinwire.topologies.cluster import Cluster
from thinwire.validation.logs.evidence import Told
from thinwire.validation.logs.runs import RankLine, Run


def place(run: Run, told: Told, cluster: Cluster) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The ranks of the cluster that took part, in the run's order, and what is to be said of it.

    ValueError where the cluster has no such GPUs.
    """
    have, wanted = len(cluster.gpus), told.ranks
    if wanted > have:
        raise ValueError(
            f"{run.title} ran on {wanted} ranks (by {told.by}), {cluster.name} has {have} GPUs: give --cluster the "
            "machine it ran on"
        )
    nodes = cluster.hosts
    lines = [run.rank_lines[rank] for rank in sorted(run.rank_lines) if rank < wanted]
    said = _strangers(lines, cluster)
    hosts = _hosts(lines, wanted)
    if hosts is None:
        if len(nodes) > 1 and wanted > len(nodes[0]):
            said.append(f"no rank lines: taken for the first {wanted} GPUs of {cluster.name}")
        return _chosen(run, wanted, nodes), tuple(said)
    many = max(hosts) + 1
    if many > len(nodes):
        here = "is one machine" if len(nodes) == 1 else f"has {len(nodes)}"
        raise ValueError(
            f"{run.title} ran on {many} machines, {cluster.name} {here}: give --cluster all of them, with the network "
            "between them"
        )
    each = [hosts.count(host) for host in range(many)]
    for host, count in enumerate(each):
        if count > len(nodes[host]):
            raise ValueError(
                f"{run.title} ran on {count} GPUs of one machine, a machine of {cluster.name} has {len(nodes[host])}"
            )
    seen = {line.rank: line for line in lines}
    found: list[int] = []
    for host, count in enumerate(each):
        ranks = [rank for rank in range(wanted) if hosts[rank] == host]
        devices = [seen[rank].device for rank in ranks if rank in seen]
        node = nodes[host]
        whole = len(devices) == count and len(set(devices)) == count
        if whole and run.visible and many == 1 and max(devices) < len(run.visible):
            devices = [run.visible[device] for device in devices]
        if whole and max(devices) < len(node):
            found += [node[device] for device in devices]
        else:
            found += _chosen(run, count, (node,))
    return tuple(found), tuple(said)


def _chosen(run: Run, wanted: int, nodes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The first GPUs, or those that CUDA_VISIBLE_DEVICES named on one machine."""
    visible = run.visible
    if len(visible) == wanted <= len(nodes[0]) and len(set(visible)) == wanted and max(visible) < len(nodes[0]):
        return tuple(nodes[0][device] for device in visible)
    return tuple(rank for node in nodes for rank in node)[:wanted]


def _hosts(lines: Sequence[RankLine], ranks: int) -> list[int] | None:
    """For each rank the number of its machine; None where rank lines do not say.

    A bus address twice on one host is two machines whose names were made alike. Ranks without a line are where both
    neighbours are, or in equal blocks.
    """
    if not lines:
        return None
    twice = [[other.bus for other in lines[:at]].count(line.bus) for at, line in enumerate(lines)]
    alike = len({line.host for line in lines}) == 1 and len({line.pid for line in lines}) > 1 and max(twice) > 0
    names = [f"{line.host} {twice[at]}" if alike else line.host for at, line in enumerate(lines)]
    order = list(dict.fromkeys(names))
    if len(order) == 1:
        return [0] * ranks
    known = {line.rank: order.index(name) for line, name in zip(lines, names, strict=True)}
    if len(known) == ranks:
        return [known[rank] for rank in range(ranks)]
    if ranks % len(order) == 0:
        block = ranks // len(order)
        equal = [rank // block for rank in range(ranks)]
        if all(equal[rank] == host for rank, host in known.items()):
            return equal
    found, host = [], 0
    for rank in range(ranks):
        host = known.get(rank, host)
        found.append(host)
    return found


def _strangers(lines: Sequence[RankLine], cluster: Cluster) -> list[str]:
    """A word where the log names another GPU than the machine has."""
    gpu = next((line.gpu for line in lines if line.gpu), "")
    names = cluster.gpu.product_names
    if not gpu or not names or any(_plain(name) in _plain(gpu) or _plain(gpu) in _plain(name) for name in names):
        return []
    return [f"the log names {gpu}, {cluster.name} has {cluster.gpu.name}: taken for the machine's"]


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
