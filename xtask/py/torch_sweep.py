#!/usr/bin/env python3
"""Writes models of torchvision, timm, transformers and torchaudio in the forms that PyTorch saves them in.

    torch_sweep.py list [FAMILY ...]          names of the models, FAMILY/NAME
    torch_sweep.py write OUT                  for each line `FAMILY/NAME FORM ...` on standard input: files, a line of JSON

Files of a model, below OUT/FAMILY/NAME: traced.pt, scripted.pt, exported.pt2 where they are asked for and PyTorch can make
them, in_0.npy and so on (the inputs), out.npz (PyTorch's own answer in eager mode, `output_0` and so on, nested results
flattened). Weights are random, from a fixed seed; inputs are as small as the model takes. The line: {"forms": {form: null or
PyTorch's own error}, "shapes": [what each input is called, with dtype and shape], "error": why the model itself does not run,
or null}.
"""
import inspect, json, os, re, resource, signal, sys, warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
import logging

logging.disable(logging.CRITICAL)

import numpy as np
import torch
from torch.utils import _pytree as pytree

# Seconds of computing that PyTorch may take for one form of a model.
PATIENCE = 200

# Peak memory, in KiB, after which the process ends, to be started again: traces and graphs stay in memory.
MEMORY = 5 << 20


def image(*sizes):
    """Images of the first of these sizes that the model takes."""
    return [lambda size=size: (torch.randn(1, 3, size, size),) for size in sizes]


def classification():
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models):
        fields, sizes = {}, (64, 96, 224)
        if name.startswith("vit_"):
            size = 4 * int(name.rsplit("_", 1)[1])
            fields, sizes = dict(image_size=size), (size,)
        yield name, lambda name=name, fields=fields: torchvision.models.get_model(name, weights=None, **fields), image(*sizes)


def segmentation():
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        yield name, lambda name=name: torchvision.models.get_model(name, weights=None, weights_backbone=None), image(96)


def detection():
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models.detection):
        # Those of single shots have one size. Few boxes: among many, two always have scores that only rounding tells apart.
        fields = {} if name.startswith("ssd") else dict(min_size=128, max_size=192)
        fields["box_detections_per_img" if "rcnn" in name else "detections_per_img"] = 12
        make = lambda name=name, fields=fields: torchvision.models.get_model(name, weights=None, weights_backbone=None, **fields)
        yield name, make, [lambda: ([torch.rand(3, 128, 160)],)]


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
        cfg = timm.get_pretrained_cfg(name)
        own = cfg.input_size[-1]
        yield name, lambda name=name: timm.create_model(name, pretrained=False), image(*((own,) if cfg.fixed_input_size else (128, own)))


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

        yield name, make, [inputs]


def torchaudio_models():
    import torchaudio

    m = torchaudio.models
    small = dict(extractor_mode="group_norm", extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)], extractor_conv_bias=False,
                 encoder_embed_dim=32, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=16, encoder_pos_conv_groups=4,
                 encoder_num_layers=2, encoder_num_heads=4, encoder_attention_dropout=0.0, encoder_ff_interm_features=64,
                 encoder_ff_interm_dropout=0.0, encoder_dropout=0.0, encoder_layer_norm_first=False, encoder_layer_drop=0.0, aux_num_out=None)
    lengths = lambda *values: torch.tensor(values)
    lstm = dict(symbol_embedding_dim=16, num_lstm_layers=2, lstm_layer_norm=True, lstm_layer_norm_epsilon=1e-3, lstm_dropout=0.0)
    rnnt = dict(input_dim=20, encoding_dim=24, num_symbols=18, segment_length=8, right_context_length=4, time_reduction_input_dim=12,
                time_reduction_stride=4, transformer_num_heads=4, transformer_ffn_dim=32, transformer_num_layers=2,
                transformer_dropout=0.0, transformer_activation="gelu", transformer_left_context_length=6,
                transformer_max_memory_size=0, transformer_weight_init_scale_strategy="depthwise", transformer_tanh_on_mem=True, **lstm)
    tacotron = dict(n_mels=20, n_symbol=30, symbol_embedding_dim=32, encoder_embedding_dim=32, decoder_rnn_dim=48, attention_rnn_dim=48,
                    attention_hidden_dim=16, attention_location_n_filter=8, attention_location_kernel_size=7, prenet_dim=24,
                    postnet_n_convolution=3, postnet_embedding_dim=32, decoder_max_step=12)

    def tacotron2():
        model = m.Tacotron2(**tacotron)
        # Its own drops values at random when it evaluates, too.
        model.decoder.prenet = torch.nn.Sequential(*(part for layer in model.decoder.prenet.layers for part in (layer, torch.nn.ReLU())))
        return model

    def subjective():
        from torchaudio.models.squim import SquimSubjective
        from torchaudio.models.squim.subjective import Predictor

        return SquimSubjective(m.wav2vec2_model(**small), torch.nn.Linear(32, 8), Predictor(16, 5))

    wave = lambda: (torch.randn(1, 1600),)
    cases = {
        "wav2vec2": (lambda: m.wav2vec2_model(**small), wave),
        "wav2vec2_ctc": (lambda: m.wav2vec2_model(**dict(small, aux_num_out=29)), wave),
        "wav2vec2_lengths": (lambda: m.wav2vec2_model(**dict(small, aux_num_out=29)), lambda: (torch.randn(2, 1600), lengths(1600, 1200))),
        "hubert": (lambda: m.wav2vec2_model(**dict(small, encoder_layer_norm_first=True, extractor_mode="layer_norm")), wave),
        "wavlm": (lambda: m.wavlm_model(**dict(small, encoder_num_buckets=32, encoder_max_distance=64)), wave),
        "wav2letter": (lambda: m.Wav2Letter(num_classes=29, input_type="mfcc", num_features=13), lambda: (torch.randn(1, 13, 100),)),
        "deepspeech": (lambda: m.DeepSpeech(n_feature=40, n_hidden=64, n_class=29), lambda: (torch.randn(1, 1, 50, 40),)),
        "conv_tasnet": (lambda: m.ConvTasNet(enc_num_feats=32, msk_num_feats=16, msk_num_hidden_feats=32, msk_num_layers=3, msk_num_stacks=2), lambda: (torch.randn(1, 1, 800),)),
        "conformer": (lambda: m.Conformer(input_dim=32, num_heads=4, ffn_dim=64, num_layers=2, depthwise_conv_kernel_size=15), lambda: (torch.randn(2, 40, 32), lengths(40, 30))),
        "emformer": (lambda: m.Emformer(32, 4, 64, 2, segment_length=4, right_context_length=1), lambda: (torch.randn(2, 21, 32), lengths(20, 16))),
        "emformer_memory": (lambda: m.Emformer(32, 4, 64, 2, segment_length=4, left_context_length=4, max_memory_size=2, tanh_on_mem=True), lambda: (torch.randn(2, 20, 32), lengths(20, 16))),
        "emformer_rnnt": (lambda: m.emformer_rnnt_model(**rnnt), lambda: (torch.randn(2, 36, 20), lengths(36, 28), torch.randint(0, 18, (2, 5), dtype=torch.int32), torch.tensor([5, 4], dtype=torch.int32))),
        "squim_objective": (lambda: m.squim_objective_model(feat_dim=32, win_len=32, d_model=32, nhead=4, hidden_dim=24, num_blocks=2, rnn_type="LSTM", chunk_size=11), lambda: (torch.randn(2, 1600),)),
        "squim_subjective": (subjective, lambda: (torch.randn(1, 1600), torch.randn(1, 1200))),
        "tacotron2": (tacotron2, lambda: (torch.randint(0, 30, (2, 9)), lengths(9, 7), torch.randn(2, 20, 6), lengths(6, 5))),
        "wavernn": (lambda: m.WaveRNN(upsample_scales=[2, 3], n_classes=16, hop_length=6, n_res_block=2, n_rnn=32, n_fc=32, n_freq=16, n_hidden=16, n_output=16), lambda: (torch.randn(1, 1, 6 * (12 - 4)), torch.randn(1, 1, 16, 12))),
        "hdemucs": (lambda: m.HDemucs(sources=["a", "b"], audio_channels=1, channels=8), lambda: (torch.randn(1, 1, 8192),)),
    }
    for name, (make, inputs) in cases.items():
        yield name, make, [inputs]


# Each gives names, functions that make a model, and functions that draw its inputs, of which the first that fits is used.
FAMILIES = {
    "classification": classification,
    "segmentation": segmentation,
    "detection": detection,
    "timm": timm_models,
    "transformers": transformers_models,
    "torchaudio": torchaudio_models,
}
KNOWN = {}


def known(family):
    if family not in KNOWN:
        KNOWN[family] = {name: case for name, *case in FAMILIES[family]()}
    return KNOWN[family]


def enliven(model):
    """Replaces the values that a fresh model leaves at zero, so that no part of it is without effect."""
    for parameter in model.parameters():
        if parameter.ndim and parameter.is_floating_point() and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)


# How many detectors are made at most.
SEEDS = 6

# What tells the classes of boxes.
SCORES = re.compile(r"(cls_score|cls_logits|classification_head\.module_list\.\d+(\.1)?)\.weight$")


def told_apart(found):
    """Whether there are boxes, with scores that are in the same order however they are rounded."""
    scores = found["scores"].sort().values
    return len(scores) > 0 and bool((scores.diff() > 1e-4).all())


def steady(model, args, answer):
    """Whether images that differ by what rounding may do give the same boxes, masks and points: which box is the last that is
    kept, or which of two points is the best, would else be a matter of rounding."""
    for _ in range(2):
        near = leaves(model([x + 2e-6 * torch.randn_like(x) for x in args[0]]))
        for a, b in zip(answer, near):
            if a.shape != b.shape or (a.numel() and (a - b).abs().max() > 2e-4 * a.abs().max()):
                return False
    return True


def excite(model, args):
    """Scales the weights of a detector's classes until some boxes are found, so that there is an answer to compare."""
    before = 1.0
    for scale in (1, 2, 4, 8, 16, 0.5, 0.25, 0.12, 32, 64, 0.06, 0.03, 3, 6, 12, 0.7, 0.35):
        for name, parameter in model.named_parameters():
            if SCORES.search(name):
                parameter *= scale / before
        before = scale
        answer = model(*args)
        if all(told_apart(found) for found in answer) and steady(model, args, leaves(answer)):
            return leaves(answer)
    raise RuntimeError("it finds no boxes, or none that are told apart")


def detector(make, draws):
    """A detector, its inputs and its answer, from the first seed for which rounding does not decide."""
    for seed in range(SEEDS):
        model, args, _ = lively(make, draws, seed)
        try:
            return model, args, excite(model, args)
        except RuntimeError:
            if seed + 1 == SEEDS:
                raise


def leaves(result):
    return [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]


def array(t):
    return t.detach().cpu().numpy()


def told(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:240] if lines else ''}"


def late(*_):
    raise TimeoutError(f"it takes longer than {PATIENCE} s")


def attempt(make):
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        make()
        return None
    except Exception as error:
        return told(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def run(model, draws):
    """The first inputs that the model takes, and its answer."""
    for i, draw in enumerate(draws):
        args = draw()
        try:
            return args, leaves(model(*args))
        except Exception:
            if i + 1 == len(draws):
                raise


def lively(make, draws, seed):
    """A model whose every part has an effect, its inputs and its answer."""
    torch.manual_seed(seed)
    model = make().eval()
    enliven(model)
    return model, *run(model, draws)


KILN = {torch.float64: "f64", torch.int64: "i64", torch.int32: "i32", torch.bool: "bool"}


def typed(t):
    """Shape and dtype, as the command takes them; f32 goes without saying."""
    dims = ",".join(map(str, t.shape))
    return dims if t.dtype == torch.float32 else f"{KILN[t.dtype]}[{dims}]"


class Flat(torch.nn.Module):
    """The model with its tensors as results, without `None` and numbers beside them, which traces cannot give."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args):
        return tuple(leaves(self.model(*args)))


def trace(model, args):
    try:
        return torch.jit.trace(model, args, strict=False, check_trace=False)
    except RuntimeError as error:
        if "can be output from traced functions" not in str(error):
            raise
        return torch.jit.trace(Flat(model), args, strict=False, check_trace=False)


def named(model, args):
    """The inputs with their names, which those in lists share with a number."""
    for name, arg in zip(inspect.signature(model.forward).parameters, args):
        if isinstance(arg, (list, tuple)):
            yield from ((f"{name}.{i}", t) for i, t in enumerate(arg))
        else:
            yield name, arg


def write(folder, family, name, forms):
    make, draws = known(family)[name]
    os.makedirs(folder, exist_ok=True)
    with torch.no_grad():
        model, args, answer = detector(make, draws) if family == "detection" else lively(make, draws, 0)
        if not all(t.isfinite().all() for t in answer):
            raise RuntimeError("its answer is not finite")
        if not any(t.is_floating_point() and t.any() for t in answer):
            raise RuntimeError("its answer is zero")
        inputs = list(named(model, args))
        for i, (_, t) in enumerate(inputs):
            np.save(os.path.join(folder, f"in_{i}.npy"), array(t))
        np.savez(os.path.join(folder, "out.npz"), **{f"output_{i}": array(t) for i, t in enumerate(answer)})
        ways = {
            "traced": lambda: trace(model, args).save(os.path.join(folder, "traced.pt")),
            "scripted": lambda: torch.jit.script(model).save(os.path.join(folder, "scripted.pt")),
            "exported": lambda: torch.export.save(torch.export.export(model, args, strict=False), os.path.join(folder, "exported.pt2")),
        }
        shapes = [f"{name}={typed(t)}" for name, t in inputs]
        return {form: attempt(ways[form]) for form in forms}, shapes


def main():
    match sys.argv[1:]:
        case ["list", *wanted]:
            for family in FAMILIES:
                if not wanted or any(w.split("/")[0] == family for w in wanted):
                    names = [f"{family}/{name}" for name in known(family)]
                    print(*(n for n in names if not wanted or family in wanted or n in wanted), sep="\n")
        case ["write", out]:
            torch.set_num_threads(1)
            signal.signal(signal.SIGPROF, late)
            for line in sys.stdin:
                path, *forms = line.split()
                made, shapes, error = {}, [], None
                try:
                    made, shapes = write(os.path.join(out, path), *path.split("/"), forms)
                except Exception as e:
                    error = told(e)
                print(json.dumps({"forms": made, "shapes": shapes, "error": error}), flush=True)
                torch.compiler.reset()
                if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MEMORY:
                    break
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
