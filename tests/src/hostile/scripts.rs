//! TorchScript programs that mean harm: nesting, bombs, loops and calls without end, paths without number.

use super::Hostile;
use super::checkpoints::archive;

pub fn files() -> Vec<Hostile> {
    [sources(), bombs(), endless(), broken()].concat()
}

/// The pickle of an empty module of class `__torch__.M`.
const MODULE: &[u8] = b"\x80\x02c__torch__\nM\n)\x81}b.";

fn with(name: &str, data: &[u8], version: &str, source: &str) -> Hostile {
    let entries = [
        ("m/constants.pkl", b"\x80\x02).".to_vec()),
        ("m/version", version.as_bytes().to_vec()),
        ("m/data.pkl", data.to_vec()),
        ("m/code/__torch__.py", source.as_bytes().to_vec()),
    ];
    Hostile::new(format!("script-{name}"), archive(&entries))
}

/// A module whose `forward` takes an integer and has these statements.
fn program(name: &str, body: &str) -> Hostile {
    let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
    with(
        name,
        MODULE,
        "3\n",
        &format!("class M(Module):\n  def forward(self: __torch__.M, n: int) -> int:\n{body}"),
    )
}

/// Sources that are nested or long.
fn sources() -> Vec<Hostile> {
    let many = 100_000;
    let mut blocks = String::new();
    for i in 0..2000 {
        blocks.push_str(&" ".repeat(i));
        blocks.push_str("if torch.gt(n, 1):\n");
    }
    vec![
        program("parentheses", &format!("return {}", "(".repeat(many))),
        program("brackets", &format!("return {}", "[".repeat(many))),
        program("braces", &format!("return {}", "{1: ".repeat(many))),
        program("attributes", &format!("return n{}", ".a".repeat(many))),
        program("calls", &format!("return n{}", "()".repeat(many))),
        program("sums", &format!("return n{}", " + n".repeat(many))),
        program("signs", &format!("return {}n", "-".repeat(many))),
        program("nots", &format!("return {}n", "not ".repeat(many))),
        program("powers", &format!("return n{}", " ** n".repeat(many))),
        program("blocks", &blocks),
        program("elifs", &format!("if n:\n  pass\n{}", "elif n:\n  pass\n".repeat(many))),
        program("a-long-list", &format!("x = [{}]\nreturn n.a", "1, ".repeat(2 << 20))),
        program("long-text", &format!("x = \"{}\"\nreturn n.a", "a".repeat(8 << 20))),
        program("many-statements", &format!("{}return n.a", "x = 1\n".repeat(1 << 20))),
        program("a-long-name", &format!("return {}", "n".repeat(8 << 20))),
        program("a-vast-number", &format!("return {}", "9".repeat(many))),
    ]
}

/// Values that double.
fn bombs() -> Vec<Hostile> {
    let doubled = |first: &str, step: &str, last: &str| {
        format!("x = {first}\n{}{last}", format!("{step}\n").repeat(64))
    };
    vec![
        program("text-doubles", &doubled("\"ab\"", "x = torch.add(x, x)", "return n")),
        program("lists-double", &doubled("[1, 2]", "x = torch.add(x, x)", "return n")),
        program("lists-repeat", "x = torch.mul([1], 9223372036854775807)\nreturn n"),
        program("text-repeats", "x = torch.mul(\"a\", 9223372036854775807)\nreturn n"),
        program("tuples-double", &doubled("(1, 2)", "x = (x, x)", "return n")),
        program(
            "formats-double",
            &doubled("\"ab\"", "x = torch.format(\"{}{}{}{}\", x, x, x, x)", "return n"),
        ),
        program("replaced-text", &doubled("\"aa\"", "x = torch.replace(x, \"a\", \"aa\")", "return n")),
        program("a-list-of-itself", "x = [1]\ny = torch.append(x, x)\nreturn torch.eq(x, x)"),
        program("text-of-itself", "x = [1]\ny = torch.append(x, x)\nreturn torch.format(\"{}\", x)"),
        program("a-result-of-itself", "x = [1]\ny = torch.append(x, x)\nreturn x"),
        program("a-vast-tensor", "return torch.zeros([1000000000, 1000000000])"),
        program("a-large-tensor", "return torch.zeros([100000, 100000])"),
        program(
            "many-dims",
            &doubled("torch.zeros([1])", "x = torch.unsqueeze(torch.cat([x, x]), 0)", "return x"),
        ),
        program(
            "a-chain-of-views",
            "x = torch.zeros([2, 2])\ny = x\nfor i in range(1000):\n  y = torch.t(y)\ny = torch.add_(y, 1)\nreturn x.a",
        ),
    ]
}

/// What does not end, or only after very long.
fn endless() -> Vec<Hostile> {
    let mut calls = String::from("class M(Module):\n");
    for i in 0..40 {
        let body =
            if i == 39 { "n".to_owned() } else { format!("(self).f{}((self).f{}(n, ), )", i + 1, i + 1) };
        let name = if i == 0 { "forward".to_owned() } else { format!("f{i}") };
        calls.push_str(&format!("  def {name}(self: __torch__.M, n: int) -> int:\n    return {body}\n"));
    }
    let nest = |inner: &str, depth: usize, head: &str| {
        let mut out = String::new();
        for i in 0..depth {
            out.push_str(&format!("{}{head}\n", "  ".repeat(i)));
        }
        format!("{out}{}{inner}\nreturn n.a", "  ".repeat(depth))
    };
    let forks = |count: usize| {
        let one = |i: usize| format!("if torch.gt(n, {i}):\n  x{i} = None\nelse:\n  x{i} = \"a\"\n");
        (0..count).map(one).collect::<String>() + "return n.a"
    };
    vec![
        program("while-true", "while True:\n  pass\nreturn n"),
        program("counted", &nest("pass", 8, "for i in range(4000):")),
        program("loops-of-run-time", &nest("n = torch.add(n, 1)", 30, "for i in range(n):")),
        program("branches-of-run-time", &nest("n = torch.add(n, 1)", 90, "if torch.gt(n, 1):")),
        program("paths", &forks(60)),
        program("calls-itself", "return (self).forward(n, )"),
        with("calls-double", MODULE, "3\n", &calls),
        program(
            "a-vast-range",
            "for i in range(9223372036854775807):\n  n = torch.add(n, torch.size(n.a))\nreturn n",
        ),
        program(
            "a-growing-list",
            "x = [1]\nfor i in range(4000):\n  for j in range(4000):\n    y = torch.append(x, j)\nreturn n",
        ),
        program("kinds-that-change", "x = None\nfor i in range(n):\n  x = torch.add(n, i)\nreturn x"),
    ]
}

/// What makes no sense.
fn broken() -> Vec<Hostile> {
    vec![
        program("no-such-name", "return m"),
        program("no-such-operator", "return torch.no_such_operator(n)"),
        program("no-such-class", "return __torch__.a.b.C.__new__(__torch__.a.b.C)"),
        program("no-such-constant", "return CONSTANTS.c7"),
        program("no-such-attribute", "return self.weight"),
        program("no-such-mode", "return ops.x.mode(1)"),
        program("open-text", "return \"abc"),
        program("bad-indentation", "if n:\n    return n\n  return n"),
        program("unpacks-too-much", "a, b, c, = (1, 2)\nreturn a"),
        program("assigns-to-a-number", "1 = n"),
        program("always-raises", "ops.prim.RaiseException(\"no\")\nreturn n"),
        program("divides-by-zero", "return torch.floordiv(1, 0)"),
        program("overflows", "return torch.mul(9223372036854775807, 2)"),
        program("not-a-path", "return __torch__.a/../b.C(n)"),
        with("a-later-version", MODULE, "999\n", ""),
        with("no-version", MODULE, "three\n", ""),
        with("no-source", MODULE, "3\n", ""),
        with("no-module", b"\x80\x02].", "3\n", ""),
        with("no-method", MODULE, "3\n", "class M(Module):\n  training : bool\n"),
        with("not-python", MODULE, "3\n", "\u{1}\u{2}\u{3}"),
        with("tabs", MODULE, "3\n", "class M(Module):\n\tdef forward(self):\n\t\tpass\n"),
    ]
}
