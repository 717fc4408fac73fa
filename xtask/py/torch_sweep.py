#!/usr/bin/env python3
"""Writes models of torchvision, timm, transformers and torchaudio in the forms that PyTorch saves them in.

    torch_sweep.py list [FAMILY ...]          names of the models, FAMILY/NAME
    torch_sweep.py write OUT                  for each name on standard input: the files below, then a line of JSON

For each model, below OUT: traced.pt, scripted.pt, exported.pt2 where PyTorch can make them, in.npz (the inputs by their
names) and out.npz (PyTorch's own answer in eager mode, `output_0` and so on, nested results flattened). Weights are
random, from a fixed seed. The line: {"name", "forms": {form: null or PyTorch's own error}, "error": why the model itself
does not run, or null}.
"""
import inspect, json, os, sys, warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
import logging

logging.disable(logging.CRITICAL)

import numpy as np
import torch
from torch.utils import _pytree as pytree


def torchvision_models():
    import torchvision

    heavy = {"regnet_y_128gf", "vit_h_14"}
    small = dict(weights=None, weights_backbone=None)
    for name in torchvision.models.list_models(module=torchvision.models):
        if name in heavy:
            continue
        size = 299 if name.startswith("inception") else 224
        yield "classification", name, lambda name=name: torchvision.models.get_model(name, weights=None), image(size)
    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        make = lambda name=name: torchvision.models.get_model(name, **small)
        yield "segmentation", name, make, image(128)
    for name in torchvision.models.list_models(module=torchvision.models.detection):
        make = lambda name=name: torchvision.models.get_model(name, **small)
        yield "detection", name, make, (lambda: ([torch.rand(3, 320, 320)],))


# One model of each of 60 families.
TIMM = """beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_tiny coatnet_nano_rw_224 convformer_s18
convit_tiny convmixer_768_32 convnext_tiny convnextv2_atto crossvit_tiny_240 cs3darknet_m cspresnet50 davit_tiny deit3_small_patch16_224
deit_tiny_patch16_224 densenet121 dla34 dm_nfnet_f0 dpn68 eca_nfnet_l0 edgenext_xx_small efficientformer_l1 efficientformerv2_s0
efficientnet_b1 efficientnet_lite0 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fastvit_t8 focalnet_tiny_srf gcresnet33ts ghostnet_100 halonet26t
hardcorenas_a hgnet_tiny hrnet_w18_small inception_next_tiny inception_v4 lcnet_050 levit_128s maxvit_pico_rw_256 mixer_s32_224
mnasnet_100 mobilenetv4_conv_small mobileone_s0 mobilevit_xxs mvitv2_tiny nest_tiny nf_resnet50 pit_ti_224
poolformer_s12 pvt_v2_b0 regnetx_002 repvgg_a0 res2net50_26w_4s resnest14d rexnet_100 selecsls42 seresnet50 swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_pcpvt_small visformer_tiny volo_d1_224 xception41 xcit_nano_12_p16_224""".split()


def timm_models():
    import timm

    for name in TIMM:
        if timm.is_model(name):
            size = timm.get_pretrained_cfg(name)
            size = (size.fixed_input_size and size.input_size[-1]) or min(size.input_size[-1], 256)
            yield "timm", name, lambda name=name: timm.create_model(name, pretrained=False), image(size)


SMALL = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=200)
DECODER = dict(SMALL, num_key_value_heads=2, head_dim=16)
VISION = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=64, patch_size=16)

# Class, its configuration, and what the model takes.
TRANSFORMERS = {
    "bert": ("BertModel", SMALL, "text"),
    "bert_classifier": ("BertForSequenceClassification", SMALL, "text"),
    "roberta": ("RobertaModel", SMALL, "text"),
    "distilbert": ("DistilBertModel", dict(dim=64, n_layers=2, n_heads=4, hidden_dim=128, vocab_size=200), "text"),
    "electra": ("ElectraModel", dict(SMALL, embedding_size=32), "text"),
    "albert": ("AlbertModel", dict(SMALL, embedding_size=32), "text"),
    "deberta_v2": ("DebertaV2Model", dict(SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"]), "text"),
    "mpnet": ("MPNetModel", SMALL, "text"),
    "xlm_roberta": ("XLMRobertaModel", SMALL, "text"),
    "camembert": ("CamembertModel", SMALL, "text"),
    "modernbert": ("ModernBertModel", dict(SMALL, pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2), "text"),
    "gpt2": ("GPT2LMHeadModel", dict(n_embd=64, n_layer=2, n_head=4, vocab_size=200), "text"),
    "gpt_neox": ("GPTNeoXForCausalLM", SMALL, "text"),
    "opt": ("OPTForCausalLM", dict(SMALL, ffn_dim=128, word_embed_proj_dim=64), "text"),
    "llama": ("LlamaForCausalLM", DECODER, "text"),
    "mistral": ("MistralForCausalLM", DECODER, "text"),
    "qwen2": ("Qwen2ForCausalLM", DECODER, "text"),
    "qwen3": ("Qwen3ForCausalLM", DECODER, "text"),
    "gemma": ("GemmaForCausalLM", DECODER, "text"),
    "phi": ("PhiForCausalLM", SMALL, "text"),
    "t5_encoder": ("T5EncoderModel", dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=200), "text"),
    "vit": ("ViTModel", VISION, "image"),
    "deit": ("DeiTModel", VISION, "image"),
    "dinov2": ("Dinov2Model", dict(VISION, patch_size=16), "image"),
    "swin": ("SwinModel", dict(image_size=64, patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4), "image"),
    "convnext": ("ConvNextModel", dict(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, image_size=64), "image"),
    "segformer": ("SegformerModel", dict(hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4]), "image"),
    "resnet": ("ResNetModel", dict(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]), "image"),
    "siglip_vision": ("SiglipVisionModel", VISION, "image"),
    "clip_vision": ("CLIPVisionModel", VISION, "image"),
    "wav2vec2": ("Wav2Vec2Model", dict(SMALL, conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4), "audio"),
    "hubert": ("HubertModel", dict(SMALL, conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4), "audio"),
}


class Positional(torch.nn.Module):
    """The model with tensors in and tensors out: results by name are not what TorchScript can return."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *args):
        result = self.model(**dict(zip(self.names, args)), return_dict=False)
        return tuple(t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor))


class OfText(Positional):
    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask)


class OfImage(Positional):
    def forward(self, pixel_values):
        return super().forward(pixel_values)


class OfAudio(Positional):
    def forward(self, input_values):
        return super().forward(input_values)


KINDS = {
    "text": (OfText, ["input_ids", "attention_mask"],
             lambda: (torch.randint(3, 200, (2, 12)), torch.ones(2, 12, dtype=torch.long))),
    "image": (OfImage, ["pixel_values"], lambda: (torch.randn(1, 3, 64, 64),)),
    "audio": (OfAudio, ["input_values"], lambda: (torch.randn(1, 1600),)),
}


def transformers_models():
    import transformers

    for name, (kind, fields, takes) in TRANSFORMERS.items():
        wrapper, names, inputs = KINDS[takes]

        def make(kind=kind, fields=fields, wrapper=wrapper, names=names):
            cls = getattr(transformers, kind)
            config = cls.config_class(**fields)
            if hasattr(config, "use_cache"):
                config.use_cache = False
            return wrapper(cls(config), names)

        yield "transformers", name, make, inputs


def torchaudio_models():
    import torchaudio

    m = torchaudio.models
    small = dict(extractor_mode="group_norm", extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)], extractor_conv_bias=False,
                 encoder_embed_dim=32, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=16, encoder_pos_conv_groups=4,
                 encoder_num_layers=2, encoder_num_heads=4, encoder_attention_dropout=0.0, encoder_ff_interm_features=64,
                 encoder_ff_interm_dropout=0.0, encoder_dropout=0.0, encoder_layer_norm_first=False, encoder_layer_drop=0.0, aux_num_out=None)
    wave = lambda: (torch.randn(1, 1600),)
    cases = {
        "wav2vec2": (lambda: m.wav2vec2_model(**small), wave),
        "wav2vec2_ctc": (lambda: m.wav2vec2_model(**dict(small, aux_num_out=29)), wave),
        "hubert": (lambda: m.wav2vec2_model(**dict(small, encoder_layer_norm_first=True, extractor_mode="layer_norm")), wave),
        "wavlm": (lambda: m.wavlm_model(**dict(small, encoder_num_buckets=32, encoder_max_distance=64)), wave),
        "wav2letter": (lambda: m.Wav2Letter(num_classes=29, input_type="mfcc", num_features=13), lambda: (torch.randn(1, 13, 100),)),
        "deepspeech": (lambda: m.DeepSpeech(n_feature=40, n_hidden=64, n_class=29), lambda: (torch.randn(1, 1, 50, 40),)),
        "conv_tasnet": (lambda: m.ConvTasNet(enc_num_feats=32, msk_num_feats=16, msk_num_hidden_feats=32, msk_num_layers=3, msk_num_stacks=2), lambda: (torch.randn(1, 1, 800),)),
        "conformer": (lambda: m.Conformer(input_dim=32, num_heads=4, ffn_dim=64, num_layers=2, depthwise_conv_kernel_size=15), lambda: (torch.randn(2, 40, 32), torch.tensor([40, 30]))),
        "emformer": (lambda: m.Emformer(32, 4, 64, 2, segment_length=4, right_context_length=1), lambda: (torch.randn(2, 21, 32), torch.tensor([20, 16]))),
        "wavernn": (lambda: m.WaveRNN(upsample_scales=[2, 3], n_classes=16, hop_length=6, n_res_block=2, n_rnn=32, n_fc=32, n_freq=16, n_hidden=16, n_output=16), lambda: (torch.randn(1, 1, 6 * (12 - 4)), torch.randn(1, 1, 16, 12))),
        "hdemucs": (lambda: m.HDemucs(sources=["a", "b"], audio_channels=1, channels=8, nfft=512, depth=3), lambda: (torch.randn(1, 1, 4096),)),
    }
    for name, (make, inputs) in cases.items():
        yield "torchaudio", name, make, inputs


def image(size):
    return lambda: (torch.randn(1, 3, size, size),)


SOURCES = [torchvision_models, timm_models, transformers_models, torchaudio_models]


def models():
    for source in SOURCES:
        for family, name, make, inputs in source():
            yield f"{family}/{name}", make, inputs


def enliven(model):
    """Replaces the values that a fresh model leaves at zero, so that no part of it is without effect."""
    for parameter in model.parameters():
        if parameter.ndim and parameter.is_floating_point() and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)


def leaves(result):
    return [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]


def save(path, names, tensors):
    np.savez(path, **{name: t.detach().cpu().numpy() for name, t in zip(names, tensors)})


def attempt(make):
    try:
        make()
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"


def write(out, name, make, inputs):
    files = {form: os.path.join(out, file) for form, file in
             (("traced", "traced.pt"), ("scripted", "scripted.pt"), ("exported", "exported.pt2"))}
    for path in files.values():
        if os.path.exists(path):
            os.remove(path)
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        enliven(model)
        args = inputs()
        answer = leaves(model(*args))
        parameters = [p for p in inspect.signature(model.forward).parameters][:len(args)]
        save(os.path.join(out, "in.npz"), parameters, args if all(isinstance(a, torch.Tensor) for a in args) else leaves(args))
        save(os.path.join(out, "out.npz"), [f"output_{i}" for i in range(len(answer))], answer)
        return {
            "traced": attempt(lambda: torch.jit.trace(model, args, strict=False, check_trace=False).save(files["traced"])),
            "scripted": attempt(lambda: torch.jit.script(model).save(files["scripted"])),
            "exported": attempt(lambda: torch.export.save(torch.export.export(model, args, strict=False), files["exported"])),
        }


def main():
    match sys.argv[1:]:
        case ["list", *families]:
            for name, _, _ in models():
                if not families or any(name.startswith(f + "/") or name == f for f in families):
                    print(name)
        case ["write", out]:
            known = {name: (make, inputs) for name, make, inputs in models()}
            for line in sys.stdin:
                name, forms, error = line.strip(), {}, None
                try:
                    forms = write(out, name, *known[name])
                except Exception as e:
                    error = f"{type(e).__name__}: {str(e)[:300]}"
                print(json.dumps({"name": name, "forms": forms, "error": error}), flush=True)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
