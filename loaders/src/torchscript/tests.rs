//! The parser, on the forms that the serializer writes: trees printed back.

use super::parser::parse;
use super::print::print;

fn reprinted(text: &str) -> String {
    let mut left = 1 << 20;
    match parse(text, 0, &mut left) {
        Ok(body) => print(&body),
        Err((at, fault)) => panic!("byte {at}: {fault:?}"),
    }
}

/// What is wrong with a text.
fn refused(text: &str) -> String {
    let mut left = 1 << 16;
    match parse(text, 0, &mut left) {
        Ok(body) => panic!("it parses: {}", print(&body)),
        Err((_, fault)) => format!("{fault:?}"),
    }
}

/// As `torch.jit.save` writes it, with forms of every kind.
const SOURCE: &str = r#"class M(Module):
  __parameters__ = ["w", ]
  __buffers__ = []
  w : Tensor
  training : bool
  d : Dict[str, Tuple[int, float]]
  p : Final[float] = 0.10000000000000001
  __annotations__["0"] = __torch__.torch.nn.modules.linear.___torch_mangle_3.Linear
  def forward(self: __torch__.M,
    x: Tensor,
    n: int=-3,
    o: Optional[Tensor]=None,
    s: str="hi\n\'q\'\"") -> Tuple[Tensor, List[Tensor]]:
    _0 = uninitialized(Tensor)
    _1 = annotate(List[Tensor], [])
    y = torch.sub(torch.add(torch.mul(x, inf), nan), 1e-20)
    while _2:
      if torch.eq(_3, 3):
        _5, _6 = True, _0
      else:
        if torch.__isnot__(o, None):
          _5, _6 = False, CONSTANTS.c0
        else:
          pass
      _2, _3 = _5, _6
    for _7 in range(torch.len(_1)):
      h0 : Optional[Tensor] = _1[_7]
      a, b, = (self).go(getattr(self, "0"), [1, 2], {"k": (1, 2), "m": (x,)}, )
    with __torch__.no_grad.__new__(__torch__.no_grad):
      self.w = torch.to(x, dtype=6, device=ops.prim.device(x))
    ops.prim.RaiseException("no", "builtins.ValueError")
    return (x, _1)
"#;

const PRINTED: &str = r#"class M(Module):
  __parameters__ = ["w"]
  __buffers__ = []
  w : Tensor
  training : bool
  d : Dict[str, Tuple[int, float]]
  p : Final[float] = 0.1
  __annotations__["0"] = __torch__.torch.nn.modules.linear.___torch_mangle_3.Linear
  def forward(self: __torch__.M, x: Tensor, n: int=-3, o: Optional[Tensor]=None, s: str="hi\n'q'\"") -> Tuple[Tensor, List[Tensor]]:
    _0 = uninitialized(Tensor)
    _1 = annotate(List[Tensor], [])
    y = torch.sub(torch.add(torch.mul(x, inf), nan), 1e-20)
    while _2:
      if torch.eq(_3, 3):
        _5, _6 = True, _0
      else:
        if torch.__isnot__(o, None):
          _5, _6 = False, CONSTANTS.c0
        else:
          pass
      _2, _3 = _5, _6
    for _7 in range(torch.len(_1)):
      h0 : Optional[Tensor] = _1[_7]
      a, b, = self.go(getattr(self, "0"), [1, 2], {"k": (1, 2), "m": (x,)})
    with __torch__.no_grad.__new__(__torch__.no_grad):
      self.w = torch.to(x, dtype=6, device=ops.prim.device(x))
    ops.prim.RaiseException("no", "builtins.ValueError")
    return (x, _1)
"#;

#[test]
fn the_serializers_forms_print_back() {
    assert_eq!(reprinted(SOURCE), PRINTED);
    // What is printed is the same program.
    assert_eq!(reprinted(PRINTED), PRINTED);
}

#[test]
fn operators_become_atens() {
    let cases = [
        ("a + b * c - d", "torch.sub(torch.add(a, torch.mul(b, c)), d)"),
        ("-x ** 2", "torch.neg(torch.pow(x, 2))"),
        ("a if not b else c or d and e", "(a if torch.__not__(b) else (c or (d and e)))"),
        ("x is not None", "torch.__isnot__(x, None)"),
        ("x not in [1, -2]", "torch.__not__(torch.__contains__([1, -2], x))"),
        ("x[:-1]", "x[:-1:]"),
        ("(a)[0][\"k\"]", "a[0][\"k\"]"),
    ];
    for (text, expected) in cases {
        assert_eq!(reprinted(text).trim_end(), expected, "{text}");
    }
}

#[test]
fn what_is_no_source_is_refused() {
    refused("f(a, *b)");
    assert!(refused("x = (1, 2").contains("expected"));
    assert!(refused("if x:\ny = 1\n").contains("indented block"));
    assert!(refused("x = 1\n  y = 2\n").contains("indentation"));
    assert!(refused("1 = x").contains("assign"));
    assert!(refused("break").contains("no place"));
    assert!(refused(&"(".repeat(1000)).contains("nesting"));
    assert!(refused(&format!("{}pass", "if x: ".repeat(1000))).contains("nesting"));
    assert!(refused(&format!("x = x{}{}", "[:x".repeat(1000), "]".repeat(1000))).contains("nesting"));
    assert!(refused("x = y[c, a:b]").contains("a slice and more"));
    assert!(refused("x = a < b < c").contains("chain"));
    assert!(refused("x = \"\\377\"").contains("UTF-8"));
    // Text in many pieces is read in one go.
    assert_eq!(reprinted(&format!("x = {}", "\"ab\" ".repeat(20_000))).len(), 40_007);
    assert!(refused(&format!("x = [{}]", "1, ".repeat(10_000))).contains("size of the source"));
}
