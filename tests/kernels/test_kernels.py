"""The Triton kernels against the definition in fp64: on a GPU, or in Triton's interpreter."""

import pytest
import torch
from loss_cases import (
    BF16_UNIT,
    DEVICE,
    OTHER_SHAPE,
    SETTINGS,
    VOCABULARIES,
    Case,
    assert_same,
    bf16_tolerance,
    relative,
)
from torch import Tensor
from torch.library import opcheck

from exprl_kernels import (
    ClipCode,
    grpo_loss_from_logits,
    linear_grpo_loss,
    linear_logp,
    linear_loss,
    logits_loss,
    tables,
)
from exprl_kernels.terms import Rows, Shape, Terms


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_and_its_gradients_are_those_of_fp64(vocab, dtype):
    case = Case(8 if vocab > 10_000 else 40, vocab, dtype, **SETTINGS["all"])
    expected, dx, dw = case.run("torch", torch.float64)
    found, found_dx, found_dw = case.run("triton", chunk_tokens=7)
    assert_same(found, expected, 2e-5)
    tolerance_dx = tolerance_dw = 1e-5
    if dtype == torch.bfloat16:
        dz = case.dlogits()
        tolerance_dx = bf16_tolerance(dx, dz**2 @ case.weight.double() ** 2)
        tolerance_dw = bf16_tolerance(dw, (dz**2).T @ case.hidden.double() ** 2)
    if vocab > 1:
        assert relative(found_dx, dx) <= tolerance_dx
        assert relative(found_dw, dw) <= tolerance_dw
    else:  # one token has probability 1, whatever the logits; a GPU rounds it in the last bit
        most = 1e-7 if found_dx.is_cuda else 0.0
        assert max(found_dx.abs().max(), found_dw.abs().max()) <= most


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_agrees_with_fp64(name):
    case = Case(40, 31, **SETTINGS[name])
    expected, dx, dw = case.run("torch", torch.float64)
    found, found_dx, found_dw = case.run("triton")
    assert_same(found, expected, 1e-5)
    assert relative(found_dx, dx) <= 1e-5
    assert relative(found_dw, dw) <= 1e-5
    codes = set(found.clip_code.tolist())
    if name == "dual clip":
        assert codes == {ClipCode.NONE, ClipCode.LOW, ClipCode.HIGH, ClipCode.DUAL}
    elif name == "reinforce":
        assert codes == {ClipCode.NONE}


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_log_probs_and_their_gradients_are_those_of_fp64(vocab):
    case = Case(6, vocab)
    found, expected = (
        [value.to(dtype, copy=True).requires_grad_() for value in (case.hidden, case.weight)]
        for dtype in (torch.float32, torch.float64)
    )
    coefficients = torch.linspace(0.5, 1.5, 6, device=DEVICE)
    outputs = []
    for inputs, backend in ((found, "triton"), (expected, "torch")):
        out = linear_logp(*inputs, case.targets, temperature=0.8, backend=backend, chunk_tokens=4)
        logp, entropy, lse = out
        (coefficients * (logp - 0.5 * entropy + 0.1 * lse)).sum().backward()
        outputs.append(out)
    for here, there in zip(*outputs, strict=True):
        assert (here.double() - there).abs().max() <= 1e-5
    for here, there in zip(found, expected, strict=True):
        assert relative(here.grad, there.grad) <= 1e-5


@pytest.mark.parametrize("name", ["defaults", "all"])
@pytest.mark.parametrize("inplace_grad", [False, True])
def test_ready_logits_give_the_same_loss_and_gradient(name, inplace_grad):
    case = Case(40, 31, **SETTINGS[name])
    wide = case.logits().double().requires_grad_()
    expected = grpo_loss_from_logits(
        wide, case.targets, **case.loss, **case.settings, backend="torch"
    )
    (3.0 * expected.loss).backward()
    logits = case.logits().requires_grad_()
    options = case.loss | case.settings
    found = grpo_loss_from_logits(
        logits, case.targets, **options, backend="triton", inplace_grad=inplace_grad
    )
    (3.0 * found.loss).backward()
    assert_same(found, expected, 1e-5)
    assert relative(logits.grad, wide.grad) <= 1e-5
    in_place = logits.grad.data_ptr() == logits.data_ptr()
    assert in_place == inplace_grad


@pytest.mark.parametrize("factor", [1.0, -0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_in_place_is_scaled_exactly_by_that_of_the_loss(factor, dtype):
    case = Case(7, 31)
    gradients = []
    for inplace_grad in (False, True):
        logits = case.logits().to(dtype).requires_grad_()
        out = grpo_loss_from_logits(
            logits, case.targets, **case.loss, backend="triton", inplace_grad=inplace_grad
        )
        (factor * out.loss).backward()  # a power of 2 rounds nothing
        gradients.append(logits.grad)
    assert torch.equal(*gradients)


def test_a_gradient_that_took_the_logits_place_is_handed_out_once():
    case = Case(5, 31)
    logits = case.logits().requires_grad_()
    out = grpo_loss_from_logits(
        logits, case.targets, **case.loss, backend="triton", inplace_grad=True
    )
    out.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward runs once"):
        out.loss.backward()


def test_segments_by_id_and_by_offset_are_one():
    case = Case(13, 31)
    by_id, dx, _ = case.run("triton")
    offsets = torch.tensor([0, 4, 7, 10, 13], device=DEVICE)
    counted = torch.bincount(case.loss["seg_id"].long(), minlength=4).cumsum(0)
    assert torch.equal(offsets[1:], counted)
    by_offset, dx_offset, _ = case.run("triton", seg_id=None, seg_off=offsets)
    assert torch.equal(by_id.loss, by_offset.loss) and torch.equal(dx, dx_offset)


def test_one_segment_for_all_tokens():
    case = Case(13, 31)
    one = {"seg_adv": torch.tensor([0.7], device=DEVICE), "seg_id": None}
    one["seg_off"] = torch.tensor([0, 13], device=DEVICE)
    found, dx, _ = case.run("triton", **one)
    expected, dx_expected, _ = case.run("torch", torch.float64, **one)
    assert_same(found, expected, 1e-5)
    assert relative(dx, dx_expected) <= 1e-5


def test_inputs_need_not_be_contiguous():
    case = Case(12, 31)
    expected, dx, _ = case.run("triton")
    case.hidden = case.hidden.T.contiguous().T
    case.weight = case.weight.T.contiguous().T
    case.targets = torch.stack([case.targets, case.targets], 1)[:, 0]
    case.loss["trainer_logp"] = case.loss["trainer_logp"].repeat_interleave(2)[::2]
    found, found_dx, _ = case.run("triton")
    assert_same(found, expected, OTHER_SHAPE, k3=1e-4)
    assert relative(found_dx, dx) <= OTHER_SHAPE
    padded = torch.full((12, 40), torch.nan, device=DEVICE)
    padded[:, :31] = case.logits()
    ready = grpo_loss_from_logits(padded[:, :31], case.targets, **case.loss, backend="triton")
    assert_same(ready, expected, OTHER_SHAPE, k3=1e-4)


def test_rows_without_weight_cost_nothing_and_change_nothing():
    case = Case(20, 31)
    kept, dx, dw = case.run("triton")
    whole, dx_whole, dw_whole = case.run("triton", drop_zero_rows=False)
    assert_same(whole, kept, OTHER_SHAPE, k3=1e-4)
    assert relative(dx_whole, dx) <= OTHER_SHAPE and relative(dw_whole, dw) <= OTHER_SHAPE
    assert not dx[case.loss["token_weight"] == 0].any()


@pytest.mark.parametrize("drop_zero_rows", [False, True])
def test_a_batch_that_is_masked_whole_has_loss_and_gradient_zero(drop_zero_rows):
    case = Case(6, 31)
    case.loss["token_weight"] = torch.zeros(6, device=DEVICE)
    out, dx, dw = case.run("triton", drop_zero_rows=drop_zero_rows)
    assert out.loss == 0 and out.bad_rows == 0
    assert not dx.any() and not dw.any()


def test_an_advantage_of_zero_teaches_nothing():
    case = Case(8, 31)
    case.loss["seg_adv"] = torch.zeros(4, device=DEVICE)
    out, dx, dw = case.run("triton")
    assert out.loss == 0 and not dx.any() and not dw.any()


def test_masked_vocabulary_has_probability_and_gradient_zero():
    case = Case(8, 31)
    case.loss["token_weight"] += 0.1
    case.targets %= 20
    logits = case.logits()
    logits[:, 20:] = -torch.inf
    wide = logits.double().requires_grad_()
    # The case's log-probs are those of other targets, under a whole vocabulary.
    options = case.loss | {"trainer_logp": None, "initial_logp": None, "entropy_coef": 0.1}
    expected = grpo_loss_from_logits(wide, case.targets, **options, backend="torch")
    expected.loss.backward()
    narrow = logits.requires_grad_()
    found = grpo_loss_from_logits(narrow, case.targets, **options, backend="triton")
    found.loss.backward()
    assert_same(found, expected, 1e-5)
    assert relative(narrow.grad, wide.grad) <= 1e-5
    assert not narrow.grad[:, 20:].any()


def broken_logits(case: Case) -> Tensor:
    """Rows 0..4: all masked, NaN, +inf, the target masked, far from the trainer's log-prob."""
    logits = case.logits()
    logits[0] = -torch.inf
    logits[1, 3] = torch.nan
    logits[2, 3] = torch.inf
    logits[3, case.targets[3]] = -torch.inf
    case.loss["trainer_logp"][4] += 50.0
    return logits


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_broken_rows_are_counted_and_teach_nothing(backend):
    case = Case(8, 31, kl_coef=0.1, entropy_coef=0.1)
    case.loss["token_weight"] += 0.1
    logits = broken_logits(case).requires_grad_()
    options = case.loss | case.settings
    out = grpo_loss_from_logits(logits, case.targets, **options, backend=backend)
    out.loss.backward()
    assert out.bad_rows == 5
    assert torch.isfinite(out.loss)
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[:5].any() and logits.grad[5:].any(1).all()
    assert out.ratio.isnan().tolist() == [True] * 5 + [False] * 3


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_hidden_state_that_is_not_finite_spoils_its_own_row_only(bad):
    case = Case(6, 31)
    case.loss["token_weight"] = torch.ones(6, device=DEVICE)
    case.hidden[2, 1] = bad
    out, dx, dw = case.run("triton")
    assert out.bad_rows == 1 and out.logp.isnan().tolist() == [i == 2 for i in range(6)]
    assert torch.isfinite(dx).all() and torch.isfinite(dw).all() and not dx[2].any()


def test_wrong_indices_on_the_device_are_left_out_and_counted():
    """What a GPU does not look at before the launch."""
    case = Case(4, 31)
    case.loss["token_weight"] = torch.ones(4, device=DEVICE)
    rows = Rows(
        torch.tensor([-1, 31, 5, 6], device=DEVICE),
        case.loss["seg_adv"],
        torch.tensor([0, 0, -1, 4], dtype=torch.int32, device=DEVICE),
        *(case.loss["token_weight"], case.loss["trainer_logp"], None, None, None),
    )
    shape, terms = Shape(1.0, 1.0, None), Terms(0.2, 0.26, None, 0.0, 0.0, None)
    outputs = logits_loss._loss_from_logits(case.logits(), *rows, *shape, *terms)
    assert outputs[0] == 0 and outputs[6] == 4


def test_memory_that_nobody_wrote_is_never_read():
    """Deterministic mode fills every uninitialized tensor with NaN."""
    case = Case(20, 31, **SETTINGS["all"])
    expected, dx, dw = case.run("triton", chunk_tokens=6)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, device=DEVICE).isnan()
        found, found_dx, found_dw = case.run("triton", chunk_tokens=6)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(found, expected, 0.0)
    assert torch.equal(found_dx, dx) and torch.equal(found_dw, dw)


def test_a_repeat_is_equal_bit_by_bit_and_chunks_change_rounding_only():
    case = Case(20, 5003, torch.bfloat16)
    first, dx, dw = case.run("triton", chunk_tokens=8)
    again, dx_again, dw_again = case.run("triton", chunk_tokens=8)
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(dx, dx_again) and torch.equal(dw, dw_again)
    for chunk_tokens in (1, 3, 64):
        other, _, dw_other = case.run("triton", chunk_tokens=chunk_tokens)
        assert_same(other, first, OTHER_SHAPE, k3=1e-4)
        # A last bit of a logit can move its gradient to the next bf16: two units apart at most.
        assert relative(dw_other, dw) <= 2 * BF16_UNIT


def test_a_frozen_head_gets_no_gradient_and_changes_none():
    case = Case(12, 31)
    _, dx, _ = case.run("triton")
    hidden = case.hidden.clone().requires_grad_()
    out = linear_grpo_loss(hidden, case.weight, case.targets, **case.loss, backend="triton")
    (3.0 * out.loss).backward()
    assert torch.equal(hidden.grad, dx) and case.weight.grad is None
    with torch.no_grad():
        assert torch.equal(
            linear_grpo_loss(hidden, case.weight, case.targets, **case.loss, backend="triton").loss,
            out.loss,
        )


def test_under_autocast_gradients_of_fp32_parameters_stay_fp32():
    case = Case(12, 31)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        found, dx, dw = case.run("triton")
    narrow, _, dw_narrow = case.run("triton", torch.bfloat16)
    assert_same(found, narrow, 1e-6)
    assert dx.dtype == dw.dtype == torch.float32
    # Kept in fp32, and not rounded to bf16 on the way.
    assert torch.equal(dw.bfloat16(), dw_narrow) and not torch.equal(dw.bfloat16().float(), dw)


def test_logits_in_fp32_keep_the_ratio_that_bf16_logits_lose():
    case = Case(32, 5003, torch.bfloat16)
    exact = linear_logp(case.hidden.double(), case.weight.double(), case.targets, backend="torch")
    ours = linear_logp(case.hidden, case.weight, case.targets, backend="triton").logp
    rounded = case.logits().float().log_softmax(-1).gather(1, case.targets[:, None])[:, 0]
    assert (ours - exact.logp).abs().max() <= 1e-4
    assert (rounded - exact.logp).abs().max() >= 1e-2


@pytest.mark.parametrize("function", ["loss", "logp", "logits"])
def test_custom_operators_are_registered_as_torch_wants_them(function):
    case = Case(6, 31)
    case.loss["token_weight"] += 0.1  # opcheck takes no two NaN for equal
    rows = Rows(case.targets, *case.loss.values(), None)
    shape, terms = Shape(0.9, 1.0, None), Terms(0.2, 0.26, None, 0.1, 0.1, 1.5)
    hidden, weight = case.hidden.requires_grad_(), case.weight.requires_grad_()
    limits = (torch.float32, 4, 1 << 30)
    match function:
        case "loss":
            opcheck(
                linear_loss._linear_grpo_loss,
                (hidden, weight, *rows, *shape, *terms, *limits, True, True),
            )
        case "logp":
            op = torch.ops.exprl.linear_logp.default
            opcheck(op, (hidden, weight, case.targets, None, *shape, *limits))
        case "logits":
            logits = case.logits().requires_grad_()
            opcheck(logits_loss._loss_from_logits, (logits, *rows, *shape, *terms))


@pytest.mark.parametrize("function", ["loss", "logp", "logits"])
def test_each_function_compiles_into_one_graph(function):
    case = Case(6, 31)

    def whole(hidden: Tensor, weight: Tensor) -> Tensor:
        match function:
            case "loss":
                return linear_grpo_loss(
                    hidden, weight, case.targets, **case.loss, backend="triton"
                ).loss
            case "logp":
                return linear_logp(hidden, weight, case.targets, backend="triton").logp.sum()
            case _:
                logits = hidden @ weight.T
                return grpo_loss_from_logits(
                    logits, case.targets, **case.loss, backend="triton"
                ).loss

    results = []
    for compute in (whole, torch.compile(whole, fullgraph=True, backend="aot_eager")):
        hidden, weight = (
            value.detach().clone().requires_grad_() for value in (case.hidden, case.weight)
        )
        value = compute(hidden, weight)
        value.backward()
        results.append((value, hidden.grad, weight.grad))
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(here, there)


def test_a_table_that_tune_wrote_is_used_and_a_broken_one_is_named(tmp_path, monkeypatch):
    file = tmp_path / "blocks.json"
    monkeypatch.setenv(tables.VARIABLE, str(file))
    tables.table.cache_clear()
    assert tables.table() == {}
    file.write_text('{"row_stats/sm_90/bfloat16/131072": [8192, 16]}')
    tables.table.cache_clear()
    assert tables.table() == {"row_stats/sm_90/bfloat16/131072": tables.Block(8192, 16)}
    file.write_text("[1]")
    tables.table.cache_clear()
    with pytest.raises(ValueError, match=r"blocks\.json is not a table"):
        tables.table()
    tables.table.cache_clear()


@pytest.mark.gpu
def test_addresses_past_two_to_the_31_are_right():
    n, vocab = 16_384, 151_936
    logits = torch.zeros(n, vocab, dtype=torch.bfloat16, device="cuda")
    logits[-1, 7] = 9.0
    logits.requires_grad_()
    rows = {
        "seg_adv": torch.ones(1, device="cuda"),
        "seg_id": torch.zeros(n, dtype=torch.int32, device="cuda"),
        "token_weight": torch.ones(n, device="cuda"),
    }
    out = grpo_loss_from_logits(
        logits, torch.full((n,), 7, device="cuda"), **rows, inplace_grad=True
    )
    out.loss.backward()
    expected = torch.zeros(vocab, device="cuda")
    expected[7] = 9.0
    assert out.logp[-1].item() == pytest.approx(expected.log_softmax(0)[7].item(), abs=1e-5)
    assert logits.grad[-1, 7].item() == pytest.approx(expected.softmax(0)[7].item() - 1, rel=1e-2)
    assert logits.grad[-2, 7].item() == pytest.approx(1 / vocab - 1, rel=1e-2)
