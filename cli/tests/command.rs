//! The command from outside: exit codes, messages, JSON keys, and the way of a model through an artifact.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kiln::ir::{DType, Tensor};
use kiln::loaders::npz;

fn kiln(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).args(args).output().unwrap()
}

fn repository(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file).to_str().unwrap().to_owned()
}

fn digits() -> String {
    repository("models/digits/digits.onnx")
}

/// A fresh folder of that name.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn path(folder: &Path, file: &str) -> String {
    folder.join(file).to_str().unwrap().to_owned()
}

/// Writes `arrays` to `file` and gives its path.
fn arrays(folder: &Path, file: &str, arrays: &[(&str, Tensor)]) -> String {
    let arrays: Vec<(String, Tensor)> = arrays.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
    npz::write(&folder.join(file), &arrays).unwrap();
    path(folder, file)
}

/// Checks exit code and message of a failure: one message, which holds all of `parts`.
fn fails(code: i32, args: &[&str], parts: &[&str]) {
    let output = kiln(args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{args:?}: `{part}` is not in: {message}");
    }
    assert!(!message.contains("panicked"), "{args:?}: {message}");
}

/// Standard output of a command that succeeds.
fn succeeds(args: &[&str]) -> String {
    let output = kiln(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Name and dims of the only input of the digits model for a batch of `n`.
fn images(n: usize) -> Tensor {
    Tensor::zeros(DType::F32, &[n, 1, 8, 8]).unwrap()
}

#[test]
fn an_artifact_answers_as_the_model_does() {
    let folder = folder("artifact");
    let (artifact, from_model, from_artifact) =
        (path(&folder, "digits.kiln"), path(&folder, "a.npz"), path(&folder, "b.npz"));
    let module = kiln::load(Path::new(&digits()), &[]).unwrap();
    let graph = module.graph(module.entries()[0]);
    let values: Vec<f32> = (0..3 * 64).map(|i| (i % 17) as f32 / 16.0).collect();
    let data = Tensor::from_slice(&[3, 1, 8, 8], &values).unwrap();
    let inputs = arrays(&folder, "in.npz", &[(graph.input_names()[0].as_str(), data)]);
    let printed = succeeds(&["compile", &digits(), "-o", &artifact, "--threads", "1", "-v"]);
    assert!(printed.contains("kernels:") && printed.contains("artifact:"), "{printed}");
    succeeds(&["run", &digits(), "--inputs", &inputs, "--outputs", &from_model]);
    succeeds(&["run", &artifact, "--inputs", &inputs, "--outputs", &from_artifact, "--threads", "2"]);
    let (a, b) = (npz::read(Path::new(&from_model)).unwrap(), npz::read(Path::new(&from_artifact)).unwrap());
    assert!(!a.is_empty());
    assert_eq!(a, b);

    let both =
        succeeds(&["bench", &artifact, "--inputs", &inputs, "--seconds", "0.05", "--json", "--clients", "2"]);
    let both: serde_json::Value = serde_json::from_str(&both).expect("one JSON object");
    assert_eq!(both["clients"], 2);
    assert!(both["runs_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{both}");
    succeeds(&["bench", &artifact, "--inputs", &inputs, "--seconds", "0.05", "--bound"]);
    let json = succeeds(&["bench", &artifact, "--inputs", &inputs, "--seconds", "0.05", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "first_ms",
        "load_ms",
        "mean_ms",
        "median_ms",
        "min_ms",
        "p90_ms",
        "p99_ms",
        "peak_rss_mib",
        "runs",
        "threads",
    ];
    assert_eq!(keys, expected);

    let printed = succeeds(&["inspect", &artifact]);
    let name = graph.input_names()[0].as_str();
    assert!(printed.contains(name) && printed.contains("--shape gives them"), "{printed}");
    let printed = succeeds(&["inspect", &artifact, "--shape", &format!("{name}=2,1,8,8")]);
    assert!(printed.contains(" times its largest live set"), "{printed}");
    let checked = succeeds(&["check", &digits(), "--inputs", &inputs]);
    assert!(checked.contains("equal within"), "{checked}");
    let (page, trace) = (path(&folder, "p.html"), path(&folder, "p.json"));
    let profile =
        ["profile", &artifact, "--inputs", &inputs, "--seconds", "0.1", "--html", &page, "--trace", &trace];
    let printed = succeeds(&profile);
    for column in ["GFLOP/s", "GB/s", "of roofline", "conv_add"] {
        assert!(printed.contains(column), "{column}: {printed}");
    }
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("<svg") && page.contains("<th>of roofline</th>"), "{page}");
    let trace: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&trace).unwrap()).unwrap();
    assert!(!trace["traceEvents"].as_array().unwrap().is_empty());
}

#[test]
fn dumps_show_the_machine_code_of_every_kernel() {
    let folder = folder("dumps");
    let artifact = path(&folder, "digits.kiln");
    let compile = |flags: &[&str]| {
        let output = kiln(&[&["compile", &digits(), "-o", &artifact], flags].concat());
        assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for (target, instruction) in [("x86-64-v4", "zmm0"), ("x86-64-v2", "mulps"), ("aarch64", "fmla")] {
        let printed = compile(&["--dump-kir", "--dump-asm", "--target", target]);
        let kernels = printed.matches("\nkernel ").count() + usize::from(printed.starts_with("kernel "));
        assert!(kernels > 3, "{printed}");
        assert_eq!(printed.matches("// machine code of kernel").count(), kernels, "{target}: {printed}");
        // A contraction calls a function of its own for the innermost work.
        assert!(printed.contains("userextname0:") && printed.contains(instruction), "{target}: {printed}");
    }
    assert!(!compile(&["--dump-kir"]).contains("machine code"));
}

#[test]
fn bad_input_ends_with_1_and_names_the_fault() {
    let folder = folder("bad");
    let module = kiln::load(Path::new(&digits()), &[]).unwrap();
    let name = module.graph(module.entries()[0]).input_names()[0].clone();
    let out = path(&folder, "out.npz");
    let run = |inputs: &str, parts: &[&str]| {
        fails(1, &["run", &digits(), "--inputs", inputs, "--outputs", &out], parts);
    };
    run(&path(&folder, "absent.npz"), &["absent.npz"]);
    run(&arrays(&folder, "name.npz", &[("pixels", images(1))]), &["name.npz", "pixels", &name]);
    let wide = Tensor::zeros(DType::F32, &[1, 1, 9, 8]).unwrap();
    run(&arrays(&folder, "shape.npz", &[(&name, wide)]), &[&name, "9", "8"]);
    let double = Tensor::zeros(DType::F64, &[1, 1, 8, 8]).unwrap();
    run(&arrays(&folder, "dtype.npz", &[(&name, double)]), &["dtype.npz", &name, "f64", "f32"]);
    std::fs::write(folder.join("junk.npz"), b"PK\x03\x04 not an archive").unwrap();
    run(&path(&folder, "junk.npz"), &["junk.npz"]);

    fails(1, &["compile", &path(&folder, "absent.onnx"), "-o", &out], &["absent.onnx"]);
    std::fs::write(folder.join("text.onnx"), b"this is no model").unwrap();
    fails(1, &["compile", &path(&folder, "text.onnx"), "-o", &out], &["text.onnx"]);
    fails(1, &["inspect", &folder.to_string_lossy()], &["config.json"]);

    let artifact = path(&folder, "digits.kiln");
    assert!(kiln(&["compile", &digits(), "-o", &artifact]).status.success());
    let mut bytes = std::fs::read(&artifact).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(folder.join("damaged.kiln"), &bytes).unwrap();
    fails(1, &["inspect", &path(&folder, "damaged.kiln")], &["damaged.kiln"]);
    std::fs::write(folder.join("short.kiln"), &bytes[..200]).unwrap();
    fails(1, &["inspect", &path(&folder, "short.kiln")], &["short.kiln"]);
}

#[test]
fn wrong_usage_ends_with_2() {
    let folder = folder("usage");
    let artifact = path(&folder, "digits.kiln");
    assert!(kiln(&["compile", &digits(), "-o", &artifact]).status.success());
    fails(2, &[], &["Usage"]);
    fails(2, &["compile", &digits()], &["--output"]);
    fails(2, &["compile", &digits(), "-o", "x", "--disable-pass", "fuze"], &["fuze", "fuse"]);
    fails(2, &["compile", &digits(), "-o", "x", "--dump-after", "fuze"], &["fuze"]);
    fails(2, &["bench", &artifact, "--shape", "x=1"], &["--shape"]);
    fails(2, &["bench", &artifact, "--no-winograd"], &["--no-winograd"]);
    fails(2, &["bench", &artifact, "--entry", "nowhere"], &["nowhere"]);
    fails(2, &["inspect", &artifact, "--dot", "x.dot"], &["--dot"]);
    fails(2, &["bench", &digits(), "--seconds=-1"], &["--seconds"]);
}

#[test]
fn a_checkpoint_is_inspected() {
    let file = |name: &str| repository(&format!("loaders/tests/checkpoints/{name}"));
    let output = kiln(&["inspect", &file("lightning.ckpt")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "state_dict.model.0.weight",
        "[4, 3]",
        "hyper_parameters:",
        "layers: [3, 4]",
        "lr: 0.001",
        "name: \"tïny\"",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    let output = kiln(&["inspect", &file("zip_p2.pt")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("is shared by `weight`, `tied`, `transposed`, `part`"), "{text}");
    let output = kiln(&["inspect", &file("blocks.gguf"), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["values"]["test.words"][2], "é");
    let is_q4 = |t: &serde_json::Value| t["name"] == "q4_0" && t["dtype"] == "q4_0" && t["shape"][1] == 256;
    assert!(json["tensors"].as_array().unwrap().iter().any(is_q4), "{json}");
    fails(2, &["inspect", &file("zip_p2.pt"), "--text"], &["--text"]);
    fails(2, &["inspect", &digits(), "--json"], &["--json"]);
    fails(1, &["compile", &file("zip_p2.pt"), "-o", "x"], &["holds weights and no graph"]);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(["inspect", &digits(), "--text"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_quantized_model_is_reported_and_compared() {
    let folder = folder("quantize");
    let original = digits();
    let name = kiln::load(Path::new(&original), &[]).unwrap();
    let name = name.graph(name.entries()[0]).input_names()[0].clone();
    let test = npz::read(Path::new(&repository("models/digits/digits_test.npz"))).unwrap();
    let (_, test) = test.into_iter().find(|(n, _)| n == "image").unwrap();
    let data = arrays(&folder, "data.npz", &[(&name, test)]);
    let (artifact, report, page) =
        (path(&folder, "int8.kiln"), path(&folder, "report.json"), path(&folder, "report.html"));
    let compile = ["compile", &original, "-o", &artifact, "--quantize", "int8"];
    fails(2, &compile, &["needs --calibrate"]);
    let more = ["--calibrate", &data, "--report", &report, "--report", &page];
    let output = kiln(&[&compile[..], &more].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("quantized: int8") && text.contains("SQNR"), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert!(json["quantized"].as_u64().unwrap() >= 3 && json["error"].as_f64().unwrap() < 0.1, "{json}");
    assert!(json["bytes_after"].as_u64().unwrap() < json["bytes_before"].as_u64().unwrap());
    assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));

    let check = ["check", &artifact, "--against", &original, "--inputs", &data];
    let output = kiln(&check);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("the least cosine is 0.99"), "{text}");
    fails(1, &[&check[..], &["--tolerance", "1e-7"]].concat(), &["differ by"]);
    let wrong = arrays(&folder, "wrong.npz", &[("nothing", images(1))]);
    fails(1, &["check", &artifact, "--against", &original, "--inputs", &wrong], &["wrong.npz", "nothing"]);
    fails(1, &[&compile[..], &["--calibrate", &wrong]].concat(), &["wrong.npz", "nothing"]);
}

#[test]
fn weights_in_fewer_bits_are_reported_and_compared() {
    let folder = folder("weights");
    let original = digits();
    let name = kiln::load(Path::new(&original), &[]).unwrap();
    let name = name.graph(name.entries()[0]).input_names()[0].clone();
    let data = arrays(&folder, "data.npz", &[(&name, images(10))]);
    let (artifact, report, page) =
        (path(&folder, "narrow.kiln"), path(&folder, "report.json"), path(&folder, "report.html"));
    let compile = ["compile", &original, "-o", &artifact];
    let with = |more: &[&'static str]| -> Vec<&str> {
        compile.iter().copied().chain(more.iter().copied()).collect()
    };
    let refused = |more: &[&'static str], parts: &[&str]| fails(2, &with(more), parts);
    refused(&["--quantize", "int4", "--group", "33"], &["multiples of 16", "33"]);
    refused(&["--quantize", "int4", "--rounding", "hqq"], &["asymmetric"]);
    refused(&["--quantize", "f16", "--group", "32"], &["--group", "int4"]);
    refused(&["--quantize", "int8-dynamic", "--asymmetric"], &["--asymmetric", "int4"]);
    refused(&["--group", "32"], &["--quantize"]);
    refused(&["--quantize", "int9"], &["int9"]);
    let drop = [&with(&["--quantize", "int4"])[..], &["--calibrate", &data, "--max-drop", "0.1"]].concat();
    fails(2, &drop, &["--max-drop", "int8"]);
    let read = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap() };
    let ways: [(&[&str], &str, f64); 5] = [
        (&["--quantize", "int4"], "quantized: int4, groups of 32, symmetric, nearest", 0.2),
        (
            &["--quantize", "int4", "--group", "128", "--asymmetric", "--rounding", "hqq"],
            "quantized: int4, groups of 128, asymmetric, hqq",
            0.2,
        ),
        (&["--quantize", "int8-weights", "--asymmetric"], "int8-weights, groups of 32, asymmetric", 0.35),
        (&["--quantize", "f16"], "quantized: f16", 0.5),
        (&["--quantize", "bf16"], "quantized: bf16", 0.5),
    ];
    for (how, said, share) in ways {
        let more = ["--calibrate", &data, "--report", &report, "--report", &page];
        let text = succeeds(&[&compile[..], how, &more].concat());
        assert!(text.contains(said) && text.contains("layers with weights in fewer bits"), "{text}");
        let json = read();
        assert!(json["quantized"].as_u64().is_some_and(|n| n >= 1), "{json}");
        let (before, after) =
            (json["weights_before"].as_f64().unwrap(), json["weights_after"].as_f64().unwrap());
        assert!(after <= share * before, "{json}");
        let reasons = json["in_floats"].as_array().unwrap();
        assert!(reasons.iter().any(|r| r["reason"].as_str().unwrap().contains("convolutions")), "{json}");
        assert!(json["error"].as_f64().is_some_and(|error| error > 0.0 && error < 0.2), "{json}");
        assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));
        let checked = ["check", &artifact, "--against", &original, "--inputs", &data];
        let text = succeeds(&checked);
        let near = ["the least cosine is 0.9", "the least cosine is 1.0"];
        assert!(near.iter().any(|said| text.contains(said)), "{how:?}: {text}");
    }
}

#[test]
fn a_sparse_model_is_reported_and_compared() {
    let folder = folder("sparsify");
    let original = digits();
    let name = kiln::load(Path::new(&original), &[]).unwrap();
    let name = name.graph(name.entries()[0]).input_names()[0].clone();
    let data = arrays(&folder, "data.npz", &[(&name, images(10))]);
    let (artifact, report, page) =
        (path(&folder, "sparse.kiln"), path(&folder, "report.json"), path(&folder, "report.html"));
    let compile = ["compile", &original, "-o", &artifact];
    let sparsify = [&compile[..], &["--sparsify", "magnitude"]].concat();
    let refused = |more: &[&str], parts: &[&str]| fails(2, &[&sparsify[..], more].concat(), parts);
    refused(&[], &["--density"]);
    refused(&["--density", "0.5", "--calibrate", &data, "--max-drop", "0.1"], &["--quantize"]);
    refused(&["--density", "0.3", "--pattern", "2:4"], &["density 0.5"]);
    fails(2, &[&compile[..], &["--density", "0.5"]].concat(), &["--sparsify"]);
    let read = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap() };

    let more = ["--pattern", "block4", "--density", "0.5", "--report", &report, "--report", &page];
    let text = succeeds(&[&sparsify[..], &more].concat());
    assert!(text.contains("sparsified: magnitude, block4, density 0.5"), "{text}");
    let json = read();
    assert!(json["pruned"].as_u64().is_some_and(|pruned| pruned >= 1), "{json}");
    assert!(json["weights_kept"].as_u64() < json["weights"].as_u64() && json["error"].is_null(), "{json}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));
    let checked = ["check", &artifact, "--against", &original, "--inputs", &data];
    assert!(succeeds(&checked).contains("the least cosine is"));

    let more = ["--pattern", "2:4", "--calibrate", &data, "--report", &report];
    let text = succeeds(&[&sparsify[..], &more].concat());
    assert!(text.contains("sparsified: magnitude, 2:4, density 0.5"), "{text}");
    let json = read();
    assert!(json["error"].as_f64().is_some_and(|error| error > 0.0), "{json}");

    let more = ["--sparsify", "wanda", "--density", "0.5", "--calibrate", &data, "--quantize", "int8"];
    let text = succeeds(&[&compile[..], &more, &["--report", &report, "--report", &page]].concat());
    assert!(text.contains("sparsified: wanda, block4 along inputs, density 0.5"), "{text}");
    assert!(text.contains("quantized: int8"), "{text}");
    let json = read();
    let [pruned, quantized] =
        [&json["sparsified"]["pruned"], &json["quantized"]["quantized"]].map(|n| n.as_u64());
    assert!(pruned.is_some_and(|n| n >= 1) && quantized.is_some_and(|n| n >= 3), "{json}");
    assert_eq!(std::fs::read_to_string(&page).unwrap().matches("<svg").count(), 2);
}
