"""Half of the units of library models: which shrink with proof, how much stays, which are refused and why.

    python benchmarks/shrink_zoo.py                       # every library that is installed
    python benchmarks/shrink_zoo.py torchvision timm      # some of them
    python benchmarks/shrink_zoo.py --only resnet18 swin_t --size 64

Runs where there is torchvision, timm, ultralytics or transformers; the package needs none. Weights are random, batch
norm has statistics of its own; the comparison is in float64, in eval mode, on the example. "equal" is the largest
relative difference of outputs between the smaller model and the masked one; the numbers behind are the shares that
stay.
"""

from __future__ import annotations

import argparse
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur import SecateurError, coupling, shrink

Make = Callable[[], tuple[nn.Module, Any]]

TIMM = """
beit_base_patch16_224 coatnet_nano_rw_224 convmixer_768_32 convnextv2_atto cspresnet50 deit3_small_patch16_224 dla34
dpn68 edgenext_xx_small efficientnetv2_rw_t fasternet_t0 fastvit_t8 ghostnet_100 gmlp_ti16_224 hrnet_w18_small
inception_v4 levit_128s mixer_s32_224 mixnet_s mobilenetv4_conv_small mobilevit_xxs nfnet_f0 poolformer_s12 pvt_v2_b0
repvgg_a0 repvit_m0_9 res2net50_26w_4s resnest14d resnetv2_50 rexnet_100 seresnet18 skresnet18 starnet_s1
swin_tiny_patch4_window7_224 tinynet_e vit_tiny_patch16_224 xcit_nano_12_p16_224
"""


def torchvision(size: int | None) -> Iterator[tuple[str, Make]]:
    from torchvision import models

    def make(name: str) -> tuple[nn.Module, Any]:
        own = {"inception_v3": 299, "googlenet": 224}.get(name, 224)
        options = {"aux_logits": False, "init_weights": False} if name in ("inception_v3", "googlenet") else {}
        flexible = not any(part in name for part in ("vit", "swin", "inception"))
        side = size if size and flexible else own
        return models.get_model(name, weights=None, **options), torch.randn(1, 3, side, side)

    for name in models.list_models(module=models):
        if name not in ("vit_h_14", "vit_l_16", "vit_l_32", "regnet_y_128gf"):  # too large for a table
            yield name, lambda name=name: make(name)


def timm(size: int | None) -> Iterator[tuple[str, Make]]:
    import timm as library

    def make(name: str) -> tuple[nn.Module, Any]:
        model: Any = library.create_model(name)
        side = model.default_cfg["input_size"][-1]
        return model, torch.randn(2, 3, side, side)  # with one image torch's own gradient of LeViT is wrong

    for name in TIMM.split():
        yield name, lambda name=name: make(name)


def transformers(size: int | None) -> Iterator[tuple[str, Make]]:
    import transformers as hf

    text = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text |= {"vocab_size": 100, "max_position_embeddings": 32}
    grouped = {**text, "num_key_value_heads": 2}
    image = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    table: dict[str, tuple[str, dict[str, Any]]] = {
        "Bert": ("Model", text),
        "Roberta": ("Model", text),
        "Electra": ("Model", {"embedding_size": 48, **text}),
        "DistilBert": ("Model", {}),  # those without options have the size that their config has by default
        "GPT2": ("LMHeadModel", {}),
        "OPT": ("ForCausalLM", {**text, "ffn_dim": 64, "word_embed_proj_dim": 48}),
        "Llama": ("ForCausalLM", grouped),
        "Qwen3": ("ForCausalLM", {**grouped, "head_dim": 12}),
        "Gemma2": ("ForCausalLM", {**grouped, "head_dim": 12}),
        "Phi3": ("ForCausalLM", {**grouped, "pad_token_id": 0}),
        "Mixtral": ("ForCausalLM", {**grouped, "num_local_experts": 4}),
        "Mamba": ("ForCausalLM", {"hidden_size": 48, "num_hidden_layers": 2, "vocab_size": 100}),
        "T5": ("ForConditionalGeneration", {}),
        "ViT": ("Model", {"image_size": 64}),
        "Swin": ("Model", {"image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}),
        "ConvNext": ("Model", {}),
        "Segformer": ("Model", {}),
        "Wav2Vec2": (
            "Model",
            {
                **image,
                "conv_dim": (16, 16),
                "conv_stride": (5, 2),
                "conv_kernel": (10, 3),
                "num_conv_pos_embeddings": 16,
                "num_conv_pos_embedding_groups": 4,
            },
        ),
    }

    def make(name: str, kind: str, options: dict[str, Any]) -> tuple[nn.Module, Any]:
        model = getattr(hf, name + kind)(getattr(hf, f"{name}Config")(**options))
        if name == "Wav2Vec2":
            return model, {"input_values": torch.randn(1, 2000)}
        if name == "T5":
            tokens = torch.randint(3, 90, (1, 8))
            return model, {"input_ids": tokens, "decoder_input_ids": tokens[:, :6], "use_cache": False}
        if name in ("ViT", "Swin", "ConvNext", "Segformer"):
            return model, {"pixel_values": torch.randn(1, 3, 64, 64)}
        more = {} if name == "DistilBert" else {"use_cache": False}
        more = {} if name in ("Bert", "Roberta", "Electra") else more
        return model, {"input_ids": torch.randint(3, 90, (1, 8)), **more}

    for name, (kind, options) in table.items():
        yield name, lambda name=name, kind=kind, options=options: make(name, kind, options)


def segmentation(size: int | None) -> Iterator[tuple[str, Make]]:
    from torchvision.models import segmentation as models

    def make(name: str) -> tuple[nn.Module, Any]:
        return getattr(models, name)(weights=None, weights_backbone=None), torch.randn(1, 3, size or 64, size or 64)

    for name in ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        yield name, lambda name=name: make(name)


def yolo(size: int | None) -> Iterator[tuple[str, Make]]:
    from ultralytics.nn.tasks import DetectionModel

    for name in ("yolov5n", "yolov8n", "yolov10n", "yolo11n"):
        yield name, lambda name=name: (DetectionModel(f"{name}.yaml", verbose=False), torch.randn(1, 3, 128, 128))


LIBRARIES = {
    "torchvision": torchvision,
    "segmentation": segmentation,
    "timm": timm,
    "yolo": yolo,
    "transformers": transformers,
}
# What is the model's answer, where it returns its inner maps besides: those may change their width.
ANSWERS: dict[str, Callable[[Any], Any]] = {"yolo": lambda out: out[0]}


def lively(model: nn.Module) -> nn.Module:
    """Give batch norm statistics that are not those of a fresh net, and weights of zeros some values."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and isinstance(module.running_var, Tensor):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                assert isinstance(tensor, Tensor)
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.02, generator=generator)
    return model.eval()


def row(name: str, make: Make, limit: int) -> str:
    signal.alarm(limit)
    start = time.perf_counter()
    try:
        torch.manual_seed(0)
        model, inputs = make()
        answer = ANSWERS.get(name.split(".")[0])
        found = shrink(lively(model), 0.5, inputs, draws=0, modes=("eval",), outputs=answer).certificate
    except SecateurError as error:
        return f"| {name} | refused | | | | {str(error)[:160]} |"
    except Late:
        return f"| {name} | over {limit} s | | | | |"
    except Exception as error:  # a library's own, most often
        return f"| {name} | {type(error).__name__} | | | | {str(error)[:120]} |"
    finally:
        signal.alarm(0)
    compared, before, after = found.comparisons[0], found.before, found.after
    kind = str(compared.dtype).removeprefix("torch.") if compared.tolerance < 1e-6 else "float32 inside"
    notes = "; ".join([*found.refused[:2], *(f"no rule for {each}" for each in found.unknown[:3])])
    share, macs = after.params / before.params, after.macs / max(1, before.macs)
    taken = time.perf_counter() - start
    return f"| {name} | {compared.outputs:.0e}, {kind} | {share:.2f} | {macs:.2f} | {taken:.1f} | {notes[:200]} |"


class Late(BaseException):
    """The time is over; no `except Exception` on the way takes it for an error of the model."""


def _stop(*_: object) -> None:
    raise Late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", help=", ".join(LIBRARIES))
    parser.add_argument("--only", nargs="+", default=[""], help="models with any of these in their name")
    parser.add_argument("--size", type=int, help="side of torchvision's images, where a net takes any")
    parser.add_argument("--limit", type=int, default=120, help="seconds for each model")
    args = parser.parse_args()
    signal.signal(signal.SIGALRM, _stop)
    warnings.simplefilter("ignore")
    coupling.trace(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), torch.zeros(1, 2))  # torch's own first imports
    print("| model | equal | parameters | MACs | s | stays |\n|---|---|--:|--:|--:|---|")
    for library in args.libraries or LIBRARIES:
        try:
            cases = list(LIBRARIES[library](args.size))
        except ImportError as error:
            print(f"| {library} | not installed: {error} | | | | |")
            continue
        for name, make in cases:
            if any(part in name for part in args.only):
                print(row(f"{library}.{name}", make, args.limit), flush=True)


if __name__ == "__main__":
    main()
