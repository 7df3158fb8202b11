"""A service in people's units and the deployment in SI that it means."""

from dataclasses import replace
from typing import Any

import pytest

from thinwire.edge.limits import HOST
from thinwire.sim.serving.question import LARGEST_ITERATION, SOURCES, Deployment, Service

ENGINE: dict[str, Any] = {"model": "llama-3-8b", "cluster": "8xl40s-pcie"}


def test_what_is_left_out_means_the_same_in_both() -> None:
    assert Service(**ENGINE).deployment() == Deployment(**ENGINE)


def test_what_is_left_out_does_not_change_between_releases() -> None:
    """Scripts and sweeps that leave an option out would mean another question: say so in the changelog."""
    found = Service(**ENGINE)
    batching = (
        found.token_budget,
        found.max_sequences,
        found.whole_prompts,
        found.kv_tokens,
        found.host_ms,
        found.gate,
    )
    assert batching == (2048, 256, False, None, 0.0, False)
    pools = (found.replicas, found.decode_replicas, found.transfer_gb_per_s, found.policy, found.fault)
    assert pools == (1, 0, 50.0, "least-tokens", ())
    load = (found.input_tokens, found.output_tokens, found.lengths, found.burstiness, found.speed, found.seed)
    assert load == (1024.0, 128.0, "lognormal", 1.0, 1.0, 0)
    asked = ("rate", "users", "trace", "duration", "warm_up", "slo_ttft_ms", "slo_tpot_ms")
    assert all(getattr(found, name) is None for name in asked)
    assert Deployment(**ENGINE).memory_share == 0.9


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"transfer_gb_per_s": 2.5}, {"transfer_bytes_per_s": 2.5e9}),
        ({"host_ms": 4.0}, {"host_s": 4e-3}),
        ({"whole_prompts": True}, {"chunked_prefill": False}),
        ({"gate": True}, {"gated": True}),
        *(
            ({name: 7}, {name: 7})
            for name in ("replicas", "decode_replicas", "max_sequences", "token_budget", "kv_tokens")
        ),
        ({"policy": "round-robin"}, {"policy": "round-robin"}),
        ({"tp": 2, "scheme": "flash-int4"}, {"tp": 2, "scheme": "flash-int4"}),
    ],
)
def test_every_option_reaches_the_deployment_in_its_unit(given: dict[str, Any], meant: dict[str, Any]) -> None:
    assert replace(Service(**ENGINE), **given).deployment() == replace(Deployment(**ENGINE), **meant)


def test_what_is_just_allowed_is_allowed() -> None:
    insides: tuple[dict[str, Any], ...] = (
        {"memory_share": 1.0}, {"host_s": HOST.most / 1e3}, {"host_s": 0.0}, {"token_budget": 1}, {"max_sequences": 1},
        {"token_budget": LARGEST_ITERATION}, {"max_sequences": LARGEST_ITERATION},
    )  # fmt: skip
    for inside in insides:
        assert Deployment(**ENGINE, **inside)
    outsides: tuple[dict[str, Any], ...] = (
        {"memory_share": 1.001}, {"memory_share": 0.0}, {"host_s": HOST.most / 1e3 * 1.001}, {"host_s": -1e-9},
        {"token_budget": 0}, {"max_sequences": 0}, {"token_budget": LARGEST_ITERATION + 1},
        {"transfer_bytes_per_s": 0.0},
    )  # fmt: skip
    for outside in outsides:
        with pytest.raises(ValueError, match=next(iter(outside))):
            Deployment(**ENGINE, **outside)


def test_requests_come_from_one_place() -> None:
    values: dict[str, Any] = {"rate": 1.0, "users": 2, "trace": "a.csv"}
    for name in SOURCES:
        assert Service(**ENGINE, **{name: values[name]}).source() == name
        others = {other: values[other] for other in SOURCES if other != name}
        with pytest.raises(ValueError, match=" and ".join(others)):
            Service(**ENGINE, **others).source()
    with pytest.raises(ValueError, match="given none"):
        Service(**ENGINE).source()
