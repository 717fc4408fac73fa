//! Folders of Hugging Face's libraries: what is refused, and how.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_loaders::{LoadError, LoadOptions, Mismatch, NameRule, NewWeights, load};
use serde_json::{Map, Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/huggingface")
}

/// A copy of a fixture's folder, under a name of its own.
fn copy(fixture: &str, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("huggingface").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    copy_all(&fixtures().join(fixture).join("model"), &folder);
    folder
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let path = folder.join(file);
    let mut fields: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut fields);
    fs::write(&path, serde_json::to_vec(&fields).unwrap()).unwrap();
}

/// The error of a folder; it comes soon, on a machine that is busy, too.
fn error(folder: &Path) -> LoadError {
    let start = Instant::now();
    let error = load(folder, &LoadOptions::default()).expect_err("the folder loads");
    assert!(start.elapsed() < Duration::from_secs(10), "{error}");
    error
}

fn with_field(fixture: &str, field: &str, value: Value) -> LoadError {
    let folder = copy(fixture, &format!("{fixture}-{field}"));
    edit(&folder, "config.json", |fields| drop(fields.insert(field.to_owned(), value)));
    error(&folder)
}

#[test]
fn fields_that_ask_for_more_are_refused() {
    let refused = [
        ("bert-mlm", "position_embedding_type", json!("relative_key")),
        ("bert-mlm", "hidden_act", json!("snake")),
        ("bert-mlm", "is_decoder", json!(true)),
        ("bert-mlm", "model_type", json!("t5")),
        ("bert-mlm", "architectures", json!(["BertForNextSentencePrediction"])),
        ("bert-mlm", "pruned_heads", json!({"0": [1]})),
        ("bert-mlm", "quantization_config", json!({"bits": 4})),
        ("bert-mlm", "layer_norm_eps", json!(-1.0)),
        ("gpt2-lm", "add_cross_attention", json!(true)),
        ("llama-rope3", "rope_parameters", json!({"rope_type": "longrope", "factor": 4.0})),
        ("llama-rope3", "partial_rotary_factor", json!(0.5)),
        ("qwen2-window", "layer_types", json!(["full_attention", "chunked_attention"])),
        ("resnet", "layer_type", json!("inverted")),
        ("sentences", "model_type", json!("gpt2")),
    ];
    for (fixture, field, value) in refused {
        match with_field(fixture, field, value) {
            LoadError::Folder { reason, .. } => assert!(reason.contains('`'), "{field}: {reason}"),
            other => panic!("{field}: {other}"),
        }
    }
}

#[test]
fn numbers_are_bounded() {
    let hostile = [
        ("bert-mlm", "num_hidden_layers", json!(1_000_000_000)),
        ("bert-mlm", "num_hidden_layers", json!(1025)),
        ("bert-mlm", "num_attention_heads", json!(0)),
        ("bert-mlm", "num_attention_heads", json!(3)),
        ("bert-mlm", "num_attention_heads", json!(-1)),
        ("bert-mlm", "hidden_size", json!(1e300)),
        ("bert-mlm", "hidden_size", json!("16")),
        ("gpt2-lm", "n_layer", json!(u64::MAX)),
        ("mistral", "num_key_value_heads", json!(0)),
        ("mistral", "head_dim", json!(3)),
        ("vit", "patch_size", json!(0)),
        ("vit", "patch_size", json!([8, 8, 8])),
        ("vit", "image_size", json!(4)),
        ("resnet", "depths", json!([1_000_000_000, 2])),
        ("resnet", "depths", json!([])),
        ("resnet", "hidden_sizes", json!([1, 2])),
    ];
    for (fixture, field, value) in hostile {
        let found = with_field(fixture, field, value);
        assert!(matches!(found, LoadError::Folder { .. }), "{field}: {found}");
    }
    // Sizes that are possible in themselves differ from those of the weights.
    let vast = [
        ("bert-mlm", "hidden_size", json!(2_147_483_646)),
        ("bert-mlm", "vocab_size", json!(2_147_483_647)),
        ("bert-mlm", "max_position_embeddings", json!(2_147_483_647)),
        ("bert-mlm", "num_hidden_layers", json!(1024)),
        ("gpt2-lm", "n_inner", json!(2_147_483_647)),
        ("gpt2-lm", "n_embd", json!(2_147_483_646)),
        ("mistral", "head_dim", json!(2_147_483_646)),
        ("mistral", "num_attention_heads", json!(2_147_483_647)),
        ("vit", "image_size", json!(2_147_483_647)),
        ("vit", "num_channels", json!(2_147_483_647)),
        ("resnet", "embedding_size", json!(2_147_483_647)),
    ];
    for (fixture, field, value) in vast {
        let found = with_field(fixture, field, value);
        assert!(matches!(found, LoadError::Weights { .. } | LoadError::Folder { .. }), "{field}: {found}");
    }
}

#[test]
fn all_weights_that_do_not_fit_are_listed() {
    let folder = copy("bert-mlm", "listed");
    edit(&folder, "config.json", |fields| {
        fields.insert("num_hidden_layers".to_owned(), json!(1));
        fields.insert("intermediate_size".to_owned(), json!(25));
        fields.insert("tie_word_embeddings".to_owned(), json!(false));
    });
    let LoadError::Weights { faults, .. } = error(&folder) else { panic!("not the weights") };
    let missing: Vec<&str> = faults.missing.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(missing, ["cls.predictions.decoder.weight"], "{faults}");
    assert_eq!(faults.unexpected.len(), 16, "{faults}");
    assert!(faults.unexpected.iter().all(|name| name.starts_with("bert.encoder.layer.1.")), "{faults}");
    let shaped: Vec<&str> = faults.mismatched.iter().map(|(name, _)| name.as_str()).collect();
    let wide = ["intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight"];
    assert_eq!(shaped, wide.map(|name| format!("bert.encoder.layer.0.{name}")), "{faults}");
    assert!(faults.to_string().contains("expected shape [25, 16], found [24, 16]"), "{faults}");
}

#[test]
fn folders_lack_files() {
    let folder = copy("bert-mlm", "no-config");
    fs::remove_file(folder.join("config.json")).unwrap();
    assert!(matches!(error(&folder), LoadError::NotAModel { .. }));
    let folder = copy("bert-mlm", "no-weights");
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    assert!(matches!(error(&folder), LoadError::Folder { .. }));
    let folder = copy("bert-mlm", "no-json");
    for text in ["", "[]", "{", "{\"model_type\": \"bert\"}", "{\"model_type\": 1}"] {
        fs::write(folder.join("config.json"), text).unwrap();
        error(&folder);
    }
    fs::write(folder.join("config.json"), "[".repeat(1 << 20)).unwrap();
    assert!(matches!(error(&folder), LoadError::Folder { .. }));
    fs::write(folder.join("config.json"), " ".repeat((1 << 22) + 1)).unwrap();
    assert!(matches!(error(&folder), LoadError::Limit { .. }));
    let folder = copy("bert-mlm", "damaged");
    fs::write(folder.join("model.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    assert!(matches!(error(&folder), LoadError::Checkpoint(_)));
}

#[test]
fn indices_stay_in_the_folder() {
    let folder = copy("bert-sharded-bin", "leaves");
    for place in ["../../../../etc/passwd", "/etc/passwd", "..\\x", "", "pytorch_model.bin.index.json"] {
        edit(&folder, "pytorch_model.bin.index.json", |fields| {
            if let Some(Value::Object(map)) = fields.get_mut("weight_map") {
                map.values_mut().for_each(|value| *value = json!(place));
            }
        });
        assert!(matches!(error(&folder), LoadError::Checkpoint(_)), "{place}");
    }
}

#[test]
fn modules_stay_in_the_folder() {
    let kinds = |kinds: &[(&str, &str)]| -> Vec<u8> {
        let module = |(path, kind): &(&str, &str)| {
            let kind = format!("sentence_transformers.models.{kind}");
            json!({"path": path, "type": kind})
        };
        serde_json::to_vec(&kinds.iter().map(module).collect::<Vec<_>>()).unwrap()
    };
    let folder = copy("sentences", "modules");
    let wrong: [&[(&str, &str)]; 6] = [
        &[("", "Transformer"), ("../sentences/1_Pooling", "Pooling")],
        &[("../bert-mlm", "Transformer"), ("1_Pooling", "Pooling")],
        &[("", "Transformer")],
        &[("", "Transformer"), ("1_Pooling", "Pooling"), ("3_Dense", "Dense")],
        &[("1_Pooling", "Pooling"), ("", "Transformer")],
        &[],
    ];
    for modules in wrong {
        fs::write(folder.join("modules.json"), kinds(modules)).unwrap();
        let found = error(&folder);
        assert!(matches!(found, LoadError::Folder { .. }), "{modules:?}: {found}");
    }
    let folder = copy("sentences", "pooling");
    edit(&folder, "1_Pooling/config.json", |fields| {
        fields.insert("pooling_mode_lasttoken".to_owned(), json!(true));
    });
    assert!(error(&folder).to_string().contains("pooling_mode_lasttoken"));
}

#[cfg(unix)]
#[test]
fn links_lead_into_the_cache_and_nowhere_else() {
    use std::os::unix::fs::symlink;
    let real = copy("bert-mlm", "models--x/blobs");
    let snapshot = real.parent().unwrap().join("snapshots/1");
    // An earlier run may have left its links.
    _ = fs::remove_dir_all(&snapshot);
    fs::create_dir_all(&snapshot).unwrap();
    for (name, blob) in [("config.json", "1f"), ("model.safetensors", "2f")] {
        fs::rename(real.join(name), real.join(blob)).unwrap();
        symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).unwrap();
    }
    load(&snapshot, &LoadOptions::default()).unwrap();
    let elsewhere = copy("bert-mlm", "elsewhere");
    fs::remove_file(snapshot.join("config.json")).unwrap();
    symlink(elsewhere.join("config.json"), snapshot.join("config.json")).unwrap();
    assert!(error(&snapshot).to_string().contains("symbolic link"));
}

#[test]
fn shapes_fix_symbols() {
    let folder = fixtures().join("bert-mlm/model");
    let shapes = |shapes: &[(&str, &[i64])]| LoadOptions {
        shapes: shapes
            .iter()
            .map(|(name, dims)| ((*name).to_owned(), dims.iter().copied().map(kiln_ir::Dim::known).collect()))
            .collect(),
        ..LoadOptions::default()
    };
    let module = load(&folder, &shapes(&[("input_ids", &[2, 8])])).unwrap();
    let graph = module.graph(module.entries()[0]);
    assert!(graph.inputs().iter().all(|&v| graph.ty(v).to_string() == "i64[2, 8]"));
    for wrong in [
        &[("pixels", &[2i64, 8][..])][..],
        &[("input_ids", &[2, 8, 1])],
        &[("input_ids", &[2, 8]), ("attention_mask", &[2, 9])],
    ] {
        assert!(matches!(load(&folder, &shapes(wrong)), Err(LoadError::Option { .. })));
    }
}

#[test]
fn rules_are_prefixes() {
    let rule = |text: &str| text.parse::<NameRule>();
    assert_eq!(rule("model.="), Ok(NameRule { from: "model.".into(), to: String::new() }));
    assert_eq!(rule("a.->b=c."), Ok(NameRule { from: "a.".into(), to: "b=c.".into() }));
    assert_eq!(rule("=model."), Ok(NameRule { from: String::new(), to: "model.".into() }));
    assert!(rule("model.").is_err() && rule("=").is_err());
}

#[test]
fn weights_of_a_folder_are_checked() {
    let options = |file: PathBuf| LoadOptions {
        weights: Some(NewWeights { file, rules: vec![], partial: false }),
        ..LoadOptions::default()
    };
    let folder = fixtures().join("bert-mlm/model");
    let found = load(&folder, &options(fixtures().join("electra/model/model.safetensors")));
    let Err(LoadError::Weights { faults, .. }) = found else { panic!("not the weights") };
    assert!(faults.mismatched.iter().all(|(_, mismatch)| matches!(mismatch, Mismatch::Shape { .. })));
    assert!(matches!(load(&folder, &options("/nowhere".into())), Err(LoadError::Checkpoint(_))));
}
