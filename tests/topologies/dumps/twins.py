"""Small twins of what machines print: every format, with the oddities that real files have. Written by hand."""
# ruff: noqa: E501 (lines are as machines print them)

from __future__ import annotations

from itertools import permutations

ESC = "\x1b"


def switch_machine(gpus: int = 4, version: str = "1") -> str:
    """An NVSwitch machine as NCCL dumps it: nested ports of one switch a GPU, NVLinks to switches, NICs of two ports."""
    parts = [f'<system version="{version}">']
    for cpu in range(2):
        parts.append(
            f'  <cpu numaid="{cpu}" affinity="ffff" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="143">'
        )
        for gpu in range(cpu * gpus // 2, (cpu + 1) * gpus // 2):
            bus = 16 * (gpu + 1)
            parts += [
                f'    <pci busid="0000:{bus:02x}:00.0" class="0x060400" vendor="0x1000" device="0xc030" link_speed="32.0 GT/s PCIe" link_width="16">',
                f'      <pci busid="0000:{bus + 1:02x}:00.0" class="0x060400" link_speed="32.0 GT/s PCIe" link_width="16">',
                f'        <pci busid="0000:{bus + 2:02x}:00.0" class="0x030200" vendor="0x10de" device="0x2330" link_speed="32.0 GT/s PCIe" link_width="16">',
                f'          <gpu dev="{gpu}" sm="90" rank="{gpu}" gdr="1">',
                '            <nvlink target="0000:05:00.0" count="10" tclass="0x068000"/>',
                '            <nvlink target="0000:06:00.0" count="8" tclass="0x068000"/>',
                "          </gpu>", "        </pci>", "      </pci>",
                f'      <pci busid="0000:{bus + 4:02x}:00.0" class="0x020000" vendor="0x15b3" device="0x1021" link_speed="32.0 GT/s PCIe" link_width="16">',
                "        <nic>",
                f'          <net name="mlx5_{2 * gpu}" dev="{2 * gpu}" speed="200000" port="1" guid="0x0" maxconn="131072" gdr="1"/>',
                f'          <net name="mlx5_{2 * gpu + 1}" dev="{2 * gpu + 1}" speed="200000" port="2" guid="0x0" gdr="1"/>',
                "        </nic>", "      </pci>", "    </pci>",
            ]  # fmt: skip
        parts.append("  </cpu>")
    return "\n".join([*parts, "</system>", ""])


VENDOR = """<!--
A vendor's file. The <gpu> elements are not in it; NCCL finds them.
-->
<system version="1">
  <cpu numaid="1" affinity="00" arch="x86_64" vendor="AuthenticAMD" familyid="23" modelid="49">
    <pci busid="ffff:ff:02.0" class="0x060400" link_speed="16 GT/s" link_width="16"> <!-- a switch -->
      <pci busid="0001:00:00.0" class="0x030200" vendor="0x10de" device="0x26b9" link_speed="16 GT/s" link_width="16"/>
      <pci busid="0101:00:00.0" class="0x020700" link_speed="16 GT/s" link_width="16"/>
      <pci busid="0002:00:00.0" class="0x030200" vendor="0x10de" device="0x26b9" link_speed="16 GT/s" link_width="16"/>
    </pci>
  </cpu>
  <cpu numaid="0" affinity="00" arch="x86_64" vendor="AuthenticAMD" familyid="23" modelid="49">
    <pci busid="ffff:ff:01.0" class="0x060400" link_speed="16 GT/s" link_width="16">
      <pci busid="0003:00:00.0" class="0x030200" vendor="0x10de" device="0x26b9" link_speed="16 GT/s" link_width="16"/>
      <pci busid="0004:00:00.0" class="0x030200" vendor="0x10de" device="0x26b9" link_speed="16 GT/s" link_width="16"/>
    </pci>
  </cpu>
</system>
"""

DEVICES_ONLY = """<system version="1">
  <cpu numaid="0">
    <pci busid="0000:00:16.0"/>
    <pci busid="0000:00:17.0"/>
  </cpu>
  <cpu numaid="1"><pci busid="0000:00:15.0"/></cpu>
</system>
"""

GRAPHS = """<graphs version="1">
  <graph id="0" pattern="4" nchannels="2" speedintra="12" typeintra="SYS"><channel><gpu dev="0"/></channel></graph>
</graphs>
"""

NO_NUMA = """<system version="1">
  <cpu numaid="-1" arch="x86_64" vendor="AuthenticAMD" familyid="143" modelid="49">
    <pci busid="0000:01:00.0" class="0x030000" vendor="0x10de" device="0x2684" link_speed="16.0 GT/s PCIe" link_width="16">
      <gpu dev="0" sm="89" rank="0" gdr="0"/>
    </pci>
    <pci busid="0000:02:00.0" class="0x030000" vendor="0x10de" device="0x2684" link_speed="16.0 GT/s PCIe" link_width="16">
      <gpu dev="1" sm="89" rank="1" gdr="0"/>
    </pci>
    <pci busid="0000:03:00.0" class="0x030000" vendor="0x1a03" device="0x2000" link_speed="" link_width="0"/>
    <!-- cut here; closed by hand -->
  </cpu>
</system>
"""

SELF_LINKS = """<system version="1">
  <cpu numaid="0" affinity="ff" arch="x86_64">
    <pci busid="0001:00:00.0" class="0x030200" vendor="0x10de" device="0x20b5" link_speed="" link_width="0">
      <gpu dev="0" sm="80" rank="0" gdr="1"><nvlink target="0001:00:00.0" count="12" tclass="0x030200"/></gpu>
    </pci>
    <nic><net name="eth0" dev="0" speed="100000" port="0" guid="0x0" gdr="0"/></nic>
  </cpu>
  <cpu numaid="1" affinity="ff00" arch="x86_64">
    <pci busid="0002:00:00.0" class="0x030200" vendor="0x10de" device="0x20b5" link_speed="" link_width="0">
      <gpu dev="1" sm="80" rank="1" gdr="1"><nvlink target="0002:00:00.0" count="12" tclass="0x030200"/></gpu>
    </pci>
  </cpu>
</system>
"""


def mesh_machine(gpus: int = 4, missing: tuple[tuple[int, int], ...] = ()) -> str:
    """AMD GPUs with an xGMI link between every two, less those missing; one NIC counts its speed in kb/s."""
    parts = ['<system version="2">']
    for gpu in range(gpus):
        parts += [
            f'  <cpu numaid="{gpu * 2 // gpus}" affinity="ff" arch="x86_64" vendor="AuthenticAMD" familyid="175" modelid="144">',
            f'    <pci busid="0000:{gpu * 16 + 2:02x}:00.0" class="0x120000" vendor="0x1002" device="0x74a1" link_speed="32.0 GT/s PCIe" link_width="16">',
            f'      <gpu dev="{gpu}" sm="304" gcn="gfx942" arch="38911" rank="{gpu}" gdr="1">',
            *(
                f'        <xgmi target="0000:{other * 16 + 2:02x}:00.0" count="1" tclass="0x120000"/>'
                for other in range(gpus) if other != gpu and (min(gpu, other), max(gpu, other)) not in missing
            ),
            "      </gpu>", "    </pci>",
            f'    <pci busid="0000:{gpu * 16 + 1:02x}:00.0" class="0x020000" vendor="0x17db" device="0x0501" link_speed="16.0 GT/s PCIe" link_width="16">',
            f'      <nic><net name="cxi{gpu}" dev="{gpu}" speed="200000000" port="1" guid="0x0" gdr="1"/></nic>',
            "    </pci>", "  </cpu>",
        ]  # fmt: skip
    return "\n".join([*parts, "</system>", ""])


def matrix(labels: list[str], words: dict[tuple[str, str], str], rest: str = "", gap: str = "\t") -> str:
    """Rows of a matrix with its header; what is not in `words` one way is looked up the other, or is SYS."""
    tail = f"{gap}CPU Affinity{gap}NUMA Affinity{gap}GPU NUMA ID" if rest else ""
    lines = [gap + gap.join(labels) + tail]
    for row in labels:
        cells = [" X " if row == c else words.get((row, c), words.get((c, row), "SYS")) for c in labels]
        numa = (gap + rest.format(numa=int(row[3:]) * 2 // 4, gap=gap)) if rest and row.startswith("GPU") else ""
        lines.append(gap.join([row, *cells]) + numa)
    return "\n".join(lines) + "\n"


LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks
"""
NIC_LEGEND = "\nNIC Legend:\n\n  NIC0: mlx5_0\n  NIC1: mlx5_bond_0\n"
GPUS4 = ["GPU0", "GPU1", "GPU2", "GPU3"]
REST = "0-31,64-95{gap}{numa}{gap}N/A"
PAIRS = {("GPU0", "GPU1"): "PIX", ("GPU2", "GPU3"): "PIX"}
TWO_SOCKETS = matrix(GPUS4, PAIRS, REST) + LEGEND
NODES = matrix(GPUS4, {**PAIRS, **{(a, b): "NODE" for a in GPUS4[:2] for b in GPUS4[2:]}})
TWO_SWITCHES = matrix(
    [f"GPU{i}" for i in range(8)],
    {(f"GPU{i}", f"GPU{j}"): "PIX" if i // 4 == j // 4 else "PHB" for i in range(8) for j in range(8)},
    gap="     ",
)
NVSWITCH = matrix(
    [*GPUS4, "NIC0", "NIC1"],
    {**dict.fromkeys(permutations(GPUS4, 2), "NV18"), ("GPU0", "NIC0"): "PIX", ("GPU1", "NIC0"): "NODE",
     ("GPU2", "NIC1"): "NODE", ("GPU3", "NIC1"): "PIX"}, REST,
) + LEGEND + NIC_LEGEND  # fmt: skip
NV4_PAIRS = matrix(
    [*GPUS4, "NIC0"],
    {("GPU0", "GPU1"): "NV4", ("GPU2", "GPU3"): "NV4", ("GPU2", "NIC0"): "PXB", ("GPU3", "NIC0"): "PIX"}, REST, "     ",
)  # fmt: skip
CUT = "\n".join(
    matrix([*GPUS4, "mlx5_0"], {**dict.fromkeys(permutations(GPUS4, 2), "NV8"), ("GPU0", "mlx5_0"): "PXB"}, REST)
    .splitlines()[:3]
) + "\n(rows GPU2.. cut here)\n"  # fmt: skip
CUT_UNCLEAR = "\n".join(matrix(GPUS4, {}).splitlines()[:2]) + "\n...\n"
PEERS_OK = """# nvidia-smi topo -p2p rw
 \tGPU0\tGPU1\tGPU2\tGPU3\t
 GPU0\tX\tOK\tOK\tOK\t
 GPU1\tOK\tX\tOK\tOK\t
 GPU2\tOK\tOK\tX\tOK\t
 GPU3\tOK\tOK\tOK\tX\t

Legend:

  X    = Self
  OK   = Status Ok
  CNS  = Chipset not supported
  GNS  = GPU not supported
  TNS  = Topology not supported
  NS   = Not supported
  U    = Unknown
"""
PEERS_NONE = PEERS_OK.replace("\tOK", "\tCNS")
NVLINK_PEERS = PEERS_OK.replace("-p2p rw", "-p2p n").replace("\tOK", "\tNS")

LISTED = "\n".join(f"GPU {i}: NVIDIA L40S (UUID: GPU-00000000-0000-0000-0000-00000000000{i})" for i in range(4)) + "\n"
TABLE = """+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.95.05              Driver Version: 580.95.05      CUDA Version: 13.0     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
|=========================================+========================+======================|
|   0  NVIDIA A100-SXM4-80...         On  |   00000000:01:00.0 Off |                    0 |
| N/A   30C    P8             45W /  400W |       2MiB /  81920MiB |      0%      Default |
+-----------------------------------------+------------------------+----------------------+
|   1  NVIDIA A100-SXM4-80...         On  |   00000000:02:00.0 Off |                    0 |
+-----------------------------------------+------------------------+----------------------+
"""
LSPCI = """01:00.0 3D controller [0302]: NVIDIA Corporation AD102GL [L40S] [10de:26b9] (rev a1)
02:00.0 3D controller [0302]: NVIDIA Corporation AD102GL [L40S] [10de:26b9] (rev a1)
03:00.0 Ethernet controller [0200]: Mellanox Technologies MT2892 [15b3:101d]
"""


def rocm_matrix(title: str, gpus: int, cell: dict[tuple[int, int], str], other: str) -> str:
    """One of rocm-smi's tables."""
    head = f"{' ' + title + ' ':=^80}\n" + "       " + "".join(f"GPU{i:<10}" for i in range(gpus))
    rows = [
        f"GPU{i}   " + "".join(f"{'0' if i == j else cell.get((min(i, j), max(i, j)), other):<13}" for j in range(gpus))
        for i in range(gpus)
    ]
    return "\n".join([head, *rows, "", ""])


def rocm(
    gpus: int = 4,
    kind: str = "XGMI",
    weight: str = "15",
    hops: str = "1",
    pairs: dict[tuple[int, int], str] | None = None,
) -> str:
    """What `rocm-smi --showtopo` prints."""
    weights = {two: "40" if other == "PCIE" else "30" for two, other in (pairs or {}).items()}
    numas = "".join(
        f"GPU[{i}]\t\t: (Topology) Numa Node: {i * 2 // gpus}\nGPU[{i}]\t\t: (Topology) Numa Affinity: {i * 2 // gpus}\n"
        for i in range(gpus)
    )
    return "\n".join([
        "", "============================ ROCm System Management Interface ============================",
        rocm_matrix("Weight between two GPUs", gpus, weights, weight), rocm_matrix("Hops between two GPUs", gpus, {}, hops),
        rocm_matrix("Link Type between two GPUs", gpus, pairs or {}, kind),
        f"{' Numa Nodes ':=^80}\n{numas}", f"{' End of ROCm SMI Log ':=^80}", "",
    ])  # fmt: skip


BUSES = [f"0000:{i:02x}:00.0" for i in (12, 34, 56, 78)]


def _amd_table(title: str, same: str, other: str) -> str:
    rows = [" ".join(f"{cell:<13}" for cell in [a, *(same if a == b else other for b in BUSES)]) for a in BUSES]
    return "\n".join([f"{title} TABLE:", " " * 13 + " ".join(f"{bus:<13}" for bus in BUSES), *rows, "", ""])


AMD_SMI = "".join([
    _amd_table("ACCESS", "ENABLED", "ENABLED"), _amd_table("WEIGHT", "0", "15"), _amd_table("HOPS", "0", "1"),
    _amd_table("LINK TYPE", "SELF", "XGMI"), _amd_table("NUMA BW", "N/A", "50000-50000"),
])  # fmt: skip
# Eight GPUs of two sockets, four links each to four of them, in the old form: CPUs alone behind the matrix.
CUBE = "\n".join(["\t" + "\t".join(f"GPU{i}" for i in range(8)) + "\tCPU Affinity"] + [
    f"GPU{i}\t" + "\t".join(
        " X " if i == j else "NV1" if i // 4 == j // 4 or j == (i + 4) % 8 else "SYS" for j in range(8)
    ) + f"\t{'0-19,40-59' if i < 4 else '20-39,60-79'}"
    for i in range(8)
]) + "\n"  # fmt: skip
ROCM_NAMES = "".join(f"GPU[{i}]\t\t: Card Series: \t\tAMD Instinct MI300X\n" for i in range(4))


def _grid(gpus: int, near: float, far: float, diagonal: str) -> str:
    cells = [
        [diagonal if i == j else f"{near if i // 2 == j // 2 else far:.2f}" for j in range(gpus)] for i in range(gpus)
    ]
    return "".join(f"{i:>6} " + " ".join(f"{cell:>6}" for cell in row) + "\n" for i, row in enumerate(cells))


def sample(
    gpus: int = 4, near: float = 27.1, far: float = 22.3, product: str = "NVIDIA L40S", peer: bool = True
) -> str:
    """What p2pBandwidthLatencyTest prints."""
    devices = "".join(
        f"Device: {i}, {product}, pciBusID: {i + 1:x}, pciDeviceID: 0, pciDomainID:0\n" for i in range(gpus)
    )
    access = "".join(
        f"Device={i} {'CAN' if peer else 'CANNOT'} Access Peer Device={j}\n" for i, j in permutations(range(gpus), 2)
    )
    head = "   D\\D " + " ".join(f"{i:>6}" for i in range(gpus)) + "\n"
    connected = "".join(
        f"     {i}\t" + " ".join(f"{int(i == j or peer):>5}" for j in range(gpus)) + "\n" for i in range(gpus)
    )
    slow = 0.7
    parts = [
        "[P2P (Peer-to-Peer) GPU Bandwidth Latency Test]\n", devices, access,
        "\n***NOTE: In case a device doesn't have P2P access to other one, it falls back to normal memcopy procedure.\n",
        "\nP2P Connectivity Matrix\n", head, connected,
        "Unidirectional P2P=Disabled Bandwidth Matrix (GB/s)\n", head, _grid(gpus, near * slow, far * slow, "700.00"),
        "Unidirectional P2P=Enabled Bandwidth (P2P Writes) Matrix (GB/s)\n", head,
        _grid(gpus, near if peer else near * slow, far if peer else far * slow, "701.00"),
        "Bidirectional P2P=Disabled Bandwidth Matrix (GB/s)\n", head, _grid(gpus, near, far, "702.00"),
        "Bidirectional P2P=Enabled Bandwidth Matrix (GB/s)\n", head, _grid(gpus, near * 1.9, far * 1.5, "703.00"),
        "P2P=Disabled Latency Matrix (us)\n", head.replace("D\\D", "GPU"), _grid(gpus, 12.0, 13.0, "2.10"),
        "\n", head.replace("D\\D", "CPU"), _grid(gpus, 7.0, 7.0, "3.0"),
    ]  # fmt: skip
    return "".join(parts)


def nvbandwidth(gpus: int = 4, near: float = 26.34, far: float = 21.9) -> str:
    """What nvbandwidth prints."""
    head = "    " + " ".join(f"{i:>9}" for i in range(gpus)) + "\n"
    devices = "".join(f"Device {i}: NVIDIA L40S (00000000:0{i + 1}:00)\n" for i in range(gpus))
    return "".join([
        "nvbandwidth Version: v0.8\nBuilt from Git version: v0.8\n\nCUDA Runtime Version: 13000\nDriver Version: 580.95.05\n\n",
        devices, "\nRunning host_to_device_memcpy_ce.\nmemcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)\n", head,
        " 0 " + " ".join(f"{25.6:>9.2f}" for _ in range(gpus)), "\n\nSUM host_to_device_memcpy_ce 102.4\n\n",
        "Running device_to_device_memcpy_read_ce.\nmemcpy CE GPU(row) -> GPU(column) bandwidth (GB/s)\n", head,
        _grid(gpus, near, far, "N/A"), "\nSUM device_to_device_memcpy_read_ce 281.0\n\n",
        "Running device_to_device_bidirectional_memcpy_read_ce.\n",
        "memcpy CE GPU(row) <-> GPU(column) Read1 bandwidth (GB/s)\n", head, _grid(gpus, 25.0, 20.0, "N/A"),
        "\nmemcpy CE GPU(row) <-> GPU(column) Total bandwidth (GB/s)\n", head, _grid(gpus, 50.2, 40.0, "N/A"),
        "\nWaiving multinode_device_to_device_memcpy_read_ce.\n",
    ])  # fmt: skip


NCCL_TESTS_LOG = """# nThread 1 nGpus 8 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
           8             2     float     sum      -1    20.11    0.00    0.00      0    19.93    0.00    0.00      0
"""
BOMB = """<?xml version="1.0"?>
<!DOCTYPE system [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>
<system version="1"><cpu numaid="0">&c;</cpu></system>
"""

ALL: dict[str, str] = {
    "nccl-switch": switch_machine(), "nccl-vendor": VENDOR, "nccl-no-numa": NO_NUMA, "nccl-self": SELF_LINKS,
    "nccl-mesh": mesh_machine(), "nccl-part-mesh": mesh_machine(missing=((0, 1), (2, 3))), "smi-sockets": TWO_SOCKETS,
    "smi-nodes": NODES, "smi-switches": TWO_SWITCHES, "smi-nvswitch": NVSWITCH, "smi-pairs": NV4_PAIRS, "smi-cut": CUT,
    "smi-peers": TWO_SOCKETS + PEERS_OK, "rocm-mesh": rocm() + ROCM_NAMES, "rocm-pcie": rocm(4, "PCIE", "40", "2"),
    "rocm-amd-smi": AMD_SMI, "smi-cube": CUBE, "rocm-part": rocm(pairs={(0, 2): "PCIE", (1, 3): "XGMI"}), "sample": TWO_SOCKETS + sample(),
    "nvbandwidth": TWO_SOCKETS + nvbandwidth(),
}  # fmt: skip
"""Twins that can be imported, given a GPU."""
