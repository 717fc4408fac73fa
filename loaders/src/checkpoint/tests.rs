//! Values of pickles that Python wrote, and pickles that nobody wrote.

use std::path::Path;

use bytes::Bytes;

use super::names::{Bounds, Exceeded, names};
use super::pickle::{Fault, Node, Pickle, read};
use super::rebuild::rebuild;
use super::tensor::TensorFault;
use super::tree::{Item, ItemId, Tree};

const MEMORY: usize = 8 << 20;

fn tree_of(pickle: &Pickle) -> Tree {
    let mut none = |_: &Pickle, _| Err(TensorFault::Description("no storages here".to_owned()));
    rebuild(pickle, MEMORY, &mut none).expect("within the memory").tree
}

fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    bytes.into_iter().map(|b| format!("{b:02x}")).collect()
}

/// The text that `canonical` of `make.py` has for a value.
fn canonical(tree: &Tree, id: ItemId) -> String {
    let list = |items: &[ItemId]| items.iter().map(|&item| canonical(tree, item)).collect::<Vec<_>>();
    match tree.item(id) {
        Item::None => "None".to_owned(),
        Item::Bool(true) => "True".to_owned(),
        Item::Bool(false) => "False".to_owned(),
        Item::Int(n) => format!("i{n}"),
        Item::Integer(digits) => format!("I{digits}"),
        Item::Float(x) => format!("f{}", hex(x.to_be_bytes())),
        Item::Complex(re, im) => format!("c{}{}", hex(re.to_be_bytes()), hex(im.to_be_bytes())),
        Item::Text(text) => format!("s{}", hex(text.as_str().bytes())),
        Item::Bytes(bytes) => format!("b{}", hex(bytes.iter().copied())),
        Item::List(items) => format!("[{}]", list(items).join(",")),
        Item::Tuple(items) => format!("({})", list(items).join(",")),
        Item::Set(items) => {
            let mut items = list(items);
            items.sort();
            format!("<{}>", items.join(","))
        }
        Item::Dict { pairs, .. } => {
            let pair = |&(k, v): &(ItemId, ItemId)| format!("{}:{}", canonical(tree, k), canonical(tree, v));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(","))
        }
        Item::Name(name) => format!(
            "n{}",
            name.replace("builtins.unicode", "builtins.str").replace("builtins.long", "builtins.int")
        ),
        Item::Opaque(opaque) => format!("o{}", opaque.name),
        Item::Tensor { .. } => "tensor".to_owned(),
    }
}

#[test]
fn pickles_of_all_protocols_have_their_values() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints/pickles.bin");
    let content = Bytes::from(std::fs::read(file).unwrap());
    let (mut at, mut count) = (0, 0);
    while let Some(lengths) = content.get(at..at + 8) {
        let length = |i: usize| u32::from_le_bytes(lengths[i..i + 4].try_into().unwrap()) as usize;
        let (stream, text) = (at + 8, at + 8 + length(0));
        at = text + length(4);
        let pickle = read(&content.slice(stream..text), 0, MEMORY).unwrap_or_else(|e| panic!("{count}: {e}"));
        let (tree, expected) = (tree_of(&pickle), String::from_utf8_lossy(&content[text..at]));
        assert_eq!(canonical(&tree, tree.root()), expected, "{count}");
        // A pickle that is cut off anywhere is an error.
        for end in (stream..text).step_by(1 + (text - stream) / 40) {
            assert!(read(&content.slice(stream..end), 0, MEMORY).is_err());
        }
        count += 1;
    }
    assert!(count >= 200, "{count} pickles");
}

fn fault(bytes: &'static [u8]) -> Fault {
    read(&Bytes::from_static(bytes), 0, MEMORY).unwrap_err().fault
}

#[test]
fn malformed_pickles_are_typed_errors() {
    assert_eq!(fault(b""), Fault::NoStop);
    assert_eq!(fault(b"."), Fault::Stack);
    assert_eq!(fault(b"\xff."), Fault::Opcode(0xff));
    assert_eq!(fault(b"\x80\x06N."), Fault::Protocol(6));
    assert_eq!(fault(b"(."), Fault::Stack);
    assert_eq!(fault(b"t."), Fault::Mark);
    assert_eq!(fault(b"N(\x85."), Fault::Stack);
    assert_eq!(fault(b"h\x07."), Fault::Memo(7));
    assert_eq!(fault(b"g99999999999999999999\n."), Fault::Number);
    assert_eq!(fault(b"X\xff\xff\xff\x7fab."), Fault::Truncated { needed: 0x7fff_ffff, left: 3 });
    assert_eq!(
        fault(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff."),
        Fault::Truncated { needed: u64::MAX, left: 1 }
    );
    assert_eq!(fault(b"T\xff\xff\xff\xffab."), Fault::Number);
    assert_eq!(fault(b"\x8b\xff\xff\xff\xff."), Fault::Number);
    assert_eq!(fault(b"X\x01\0\0\0\xff."), Fault::Text);
    assert_eq!(fault(b"}(K\x01u."), Fault::Pairs);
    assert_eq!(fault(b"NK\x01a."), Fault::Kind { instruction: "an append", found: "None" });
    assert_eq!(fault(b"]}b."), Fault::Kind { instruction: "a state", found: "a list" });
    assert_eq!(fault(b"\x97."), Fault::Buffer);
    assert_eq!(fault(b"cos\nsystem"), Fault::NoLine);
    assert_eq!(fault(b"K\x01K\x02\x93."), Fault::Kind { instruction: "an import", found: "an integer" });
    assert_eq!(fault(b"cos\nsystem\n)R}b}b."), Fault::State);
}

#[test]
fn nothing_is_called() {
    let opaque = |bytes: &'static [u8]| {
        let tree = tree_of(&read(&Bytes::from_static(bytes), 0, MEMORY).unwrap());
        match tree.item(tree.root()) {
            Item::Opaque(opaque) => opaque.name.clone(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(opaque(b"cos\nsystem\n(X\x02\0\0\0lstR."), "os.system");
    assert_eq!(opaque(b"(X\x02\0\0\0lsios\nsystem\n."), "os.system");
    assert_eq!(opaque(b"(cos\nsystem\nX\x02\0\0\0lso."), "os.system");
    assert_eq!(opaque(b"cos\nsystem\n)\x81."), "os.system");
    assert_eq!(opaque(b"cos\nsystem\n)}\x92."), "os.system");
    assert_eq!(opaque(b"\x8c\x02os\x8c\x06system\x93)R."), "os.system");
    assert_eq!(opaque(b"cos\nsystem\n)R(K\x01e."), "os.system");
    assert_eq!(opaque(b"\x82\x01)R."), "a call of an extension");
    assert_eq!(opaque(b"\x84\x01\0\0\0."), "extension 1 of copyreg");
    assert_eq!(opaque(b"Ncos\nsystem\nR."), "a call of None");
    assert_eq!(opaque(b"cbuiltins\ngetattr\n(cos\n\nX\x06\0\0\0systemtR)R."), "a call of an object");
}

#[test]
fn cycles_and_nesting_end() {
    let walk = |bytes: Vec<u8>, depth| {
        let tree = tree_of(&read(&Bytes::from(bytes), 0, MEMORY).unwrap());
        names(&tree, &Bounds { depth, memory: 1 << 20 }).map(|found| found.opaque.len())
    };
    // A list, a dict and a state that contain themselves.
    assert_eq!(walk(b"]q\0h\0a.".to_vec(), 8), Ok(0));
    assert_eq!(walk(b"}q\0K\x01h\0s.".to_vec(), 8), Ok(0));
    assert_eq!(walk(b"ca\nb\n)Rq\0h\0b.".to_vec(), 8), Ok(1));
    // A tuple in itself, by a list.
    assert_eq!(walk(b"]q\0h\0\x85a.".to_vec(), 8), Ok(0));
    let deep = [vec![b']'; 5000], vec![b'a'; 4999], b".".to_vec()].concat();
    assert_eq!(walk(deep, 256), Err(Exceeded::Depth));
    // Each list holds the one before ten times: ten to the power of forty ways.
    let mut shared = b"]q\0".to_vec();
    for i in 0..40u8 {
        shared.extend(b"](");
        (0..10).for_each(|_| shared.extend([b'h', i]));
        shared.extend([b'e', b'q', i + 1]);
    }
    shared.push(b'.');
    assert_eq!(walk(shared, 256), Ok(0));
}

#[test]
fn memory_is_counted() {
    let bomb = |unit: &[u8]| Bytes::from([&unit.repeat(1 << 20)[..], b"."].concat());
    for unit in [&b"]"[..], b"(", b"}", b"N", b"\x8f", b"]2", b"N\x94", b"NN\x86", b"I9\n"] {
        let result = read(&bomb(unit), 0, 1 << 20);
        assert!(matches!(result.unwrap_err().fault, Fault::Memory(_)), "{unit:?}");
    }
    // A long text that many values are made from.
    let text = [&b"(c_codecs\nencode\n(X\0\0\x10\0"[..], &[b'a'; 1 << 20], b"X\x06\0\0\0latin1tq\0"].concat();
    let calls = [&text[..], &b"c_codecs\nencode\nh\0R".repeat(100), b"t."].concat();
    let pickle = read(&Bytes::from(calls), 0, MEMORY).unwrap();
    let mut none = |_: &Pickle, _| Err(TensorFault::Description(String::new()));
    assert!(rebuild(&pickle, MEMORY, &mut none).is_none());
}

#[test]
fn pickles_follow_each_other() {
    let input = Bytes::from_static(b"\x80\x02K\x07.\x80\x04\x95\x03\0\0\0\0\0\0\0K\x08.rest");
    let first = read(&input, 0, MEMORY).unwrap();
    let second = read(&input, first.end(), MEMORY).unwrap();
    assert_eq!((first.node(first.root()), second.node(second.root())), (&Node::Int(7), &Node::Int(8)));
    assert_eq!(&input[second.end()..], b"rest");
}
