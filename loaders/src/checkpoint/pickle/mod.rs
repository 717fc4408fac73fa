//! A reader of Python pickles, protocols 0 to 5, that makes data and calls nothing.
//!
//! Every instruction is read; those that would import, call or look up give values that say what Python would do
//! ([`Node::Global`], [`Node::Object`], [`Node::Extension`], [`Node::Persistent`]). What they mean is decided by who
//! reads the values. Lengths are checked against the input before anything is allocated, the values' memory is counted
//! against a limit, and no step is recursive: values are shared by number, so cycles and nesting cost nothing here.
//!
//! The instructions are those of CPython's `Lib/pickletools.py`.

mod error;
mod text;
mod value;

use bytes::Bytes;
use rustc_hash::FxHashMap;

pub use error::{Fault, PickleError};
pub use value::{Global, Id, Long, Node, Object, Pickle, Text};

/// Reads the pickle that begins at byte `start` of `input`; what follows it is left alone, see [`Pickle::end`].
/// The values take at most `memory` bytes, beside the input, which long texts share.
pub fn read(input: &Bytes, start: usize, memory: usize) -> Result<Pickle, PickleError> {
    let mut vm = Machine {
        input,
        at: start,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: FxHashMap::default(),
        left: memory,
        limit: memory,
    };
    let mut offset = start;
    vm.shared_values().and_then(|()| vm.run(&mut offset)).map_err(|fault| PickleError { offset, fault })
}

/// Values that are made once: None, the bools, the empty tuple, and integers of one byte.
const NONE: Id = Id(0);
const FALSE: Id = Id(1);
const TRUE: Id = Id(2);
const EMPTY_TUPLE: Id = Id(3);
const FIRST_INT: u32 = 4;

/// What a value, a place on the stack or in a list, and an entry of the memo are counted as, in bytes. Growing
/// doubles what is there, and the memo's table keeps some places free and is copied when it grows.
const NODE: usize = 2 * size_of::<Node>();
const PLACE: usize = 2 * size_of::<Id>();
const ENTRY: usize = 4 * size_of::<(u64, Id)>();

struct Machine<'a> {
    input: &'a Bytes,
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack; nothing is taken from below the last.
    marks: Vec<usize>,
    memo: FxHashMap<u64, Id>,
    left: usize,
    limit: usize,
}

impl Machine<'_> {
    fn shared_values(&mut self) -> Result<(), Fault> {
        let fixed = [Node::None, Node::Bool(false), Node::Bool(true), Node::Tuple(vec![])];
        for node in fixed.into_iter().chain((0..256).map(Node::Int)) {
            self.add(node)?;
        }
        Ok(())
    }

    /// Runs to the end of the pickle; `offset` follows the instructions.
    fn run(&mut self, offset: &mut usize) -> Result<Pickle, Fault> {
        loop {
            *offset = self.at;
            let Some(&opcode) = self.input.get(self.at) else { return Err(Fault::NoStop) };
            self.at += 1;
            if opcode == b'.' {
                let root = self.pop()?;
                return Ok(Pickle { nodes: std::mem::take(&mut self.nodes), root, end: self.at });
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b | b'F' | b'G' => self.number(opcode),
            b'S' | b'T' | b'U' | b'B' | b'C' | 0x8e | 0x96 | b'V' | b'X' | 0x8c | 0x8d => self.string(opcode),
            b'N' => self.push(NONE),
            0x88 => self.push(TRUE),
            0x89 => self.push(FALSE),
            b']' | b'l' | b'a' | b'e' | b'}' | b'd' | b's' | b'u' | 0x8f | 0x90 | 0x91 => {
                self.collection(opcode)
            }
            b')' | b't' | 0x85 | 0x86 | 0x87 => self.tuple(opcode),
            b'(' => {
                self.charge(2 * size_of::<usize>())?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => match self.pop() {
                Ok(_) => Ok(()),
                Err(_) => self.marks.pop().map(|_| ()).ok_or(Fault::Stack),
            },
            b'1' => self.pop_mark().map(|_| ()),
            b'2' => {
                let top = self.top()?;
                self.push(top)
            }
            b'g' | b'h' | b'j' | b'p' | b'q' | b'r' | 0x94 => self.memory(opcode),
            b'c' | 0x93 | 0x82 | 0x83 | 0x84 | b'R' | b'b' | b'i' | b'o' | 0x81 | 0x92 | b'P' | b'Q' => {
                self.object(opcode)
            }
            0x80 => match self.take::<1>()? {
                [0..=5] => Ok(()),
                [version] => Err(Fault::Protocol(version)),
            },
            0x95 => {
                // A frame only says how much to read at once.
                let length = u64::from_le_bytes(self.take()?);
                self.available(length).map(|_| ())
            }
            0x97 => Err(Fault::Buffer),
            0x98 => self.top().map(|_| ()),
            other => Err(Fault::Opcode(other)),
        }
    }

    fn number(&mut self, opcode: u8) -> Result<(), Fault> {
        let node = match opcode {
            b'I' => text::int(&self.line()?)?,
            b'L' => text::long(&self.line()?)?,
            b'F' => text::float(&self.line()?)?,
            b'J' => Node::Int(i64::from(i32::from_le_bytes(self.take()?))),
            b'K' => Node::Int(i64::from(u8::from_le_bytes(self.take()?))),
            b'M' => Node::Int(i64::from(u16::from_le_bytes(self.take()?))),
            b'G' => Node::Float(f64::from_be_bytes(self.take()?)),
            0x8a => {
                let [length] = self.take::<1>()?;
                long(self.bytes(u64::from(length))?)
            }
            _ => {
                let length = i32::from_le_bytes(self.take()?);
                let length = u64::try_from(length).map_err(|_| Fault::Number)?;
                long(self.bytes(length)?)
            }
        };
        match node {
            Node::Bool(b) => self.push(if b { TRUE } else { FALSE }),
            Node::Int(n @ 0..=255) => self.push(Id(FIRST_INT + u32::try_from(n).unwrap_or(0))),
            node => self.push_new(node),
        }
    }

    fn string(&mut self, opcode: u8) -> Result<(), Fault> {
        let node = match opcode {
            b'S' => {
                let line = self.line()?;
                // What is decoded does not share the input.
                self.charge(line.len())?;
                text::string(&line)?
            }
            b'V' => {
                let line = self.line()?;
                self.charge(2 * line.len())?;
                text::unicode(&line)?
            }
            b'T' => {
                let length = i32::from_le_bytes(self.take()?);
                let length = u64::try_from(length).map_err(|_| Fault::Number)?;
                text::byte_string(self.bytes(length)?)
            }
            b'U' => text::byte_string(self.sized::<1>()?),
            b'B' => Node::Bytes(self.sized::<4>()?),
            b'C' => Node::Bytes(self.sized::<1>()?),
            0x8e => Node::Bytes(self.sized::<8>()?),
            0x96 => Node::ByteArray(self.sized::<8>()?),
            b'X' => self.sized::<4>().and_then(utf8)?,
            0x8c => self.sized::<1>().and_then(utf8)?,
            _ => self.sized::<8>().and_then(utf8)?,
        };
        self.push_new(node)
    }

    fn collection(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            b']' => self.push_new(Node::List(vec![])),
            b'}' => self.push_new(Node::Dict(vec![])),
            0x8f => self.push_new(Node::Set(vec![])),
            b'l' => {
                let items = self.pop_mark()?;
                self.push_new(Node::List(items))
            }
            0x91 => {
                let items = self.pop_mark()?;
                self.push_new(Node::FrozenSet(items))
            }
            b'd' => {
                let pairs = pairs(&self.pop_mark()?)?;
                self.push_new(Node::Dict(pairs))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item], "an append")
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(&items, "an append")
            }
            0x90 => {
                let items = self.pop_mark()?;
                self.append(&items, "an addition to a set")
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[(key, value)])
            }
            _ => {
                let pairs = pairs(&self.pop_mark()?)?;
                self.set(&pairs)
            }
        }
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), Fault> {
        let items = match opcode {
            b')' => return self.push(EMPTY_TUPLE),
            b't' => self.pop_mark()?,
            _ => {
                let count = usize::from(opcode - 0x84);
                let floor = self.floor();
                let start =
                    self.stack.len().checked_sub(count).filter(|&n| n >= floor).ok_or(Fault::Stack)?;
                self.stack.split_off(start)
            }
        };
        match items.is_empty() {
            true => self.push(EMPTY_TUPLE),
            false => {
                self.charge(items.len() * PLACE)?;
                self.push_new(Node::Tuple(items))
            }
        }
    }

    /// Instructions on the memo.
    fn memory(&mut self, opcode: u8) -> Result<(), Fault> {
        let number = match opcode {
            0x94 => self.memo.len() as u64,
            b'g' | b'p' => {
                let line = self.line()?;
                std::str::from_utf8(&line).ok().and_then(|s| s.trim().parse().ok()).ok_or(Fault::Number)?
            }
            b'h' | b'q' => u64::from(u8::from_le_bytes(self.take()?)),
            _ => u64::from(u32::from_le_bytes(self.take()?)),
        };
        if matches!(opcode, b'g' | b'h' | b'j') {
            let id = *self.memo.get(&number).ok_or(Fault::Memo(number))?;
            return self.push(id);
        }
        let top = self.top()?;
        self.charge(ENTRY)?;
        self.memo.insert(number, top);
        Ok(())
    }

    /// Instructions that import, call and look up in Python; here they only say so.
    fn object(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            b'c' => {
                let global = self.global_lines()?;
                self.push(global)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id| match self.node(id) {
                    Node::Str(text) => Ok(text.clone()),
                    other => Err(Fault::Kind { instruction: "an import", found: other.kind() }),
                };
                let global = Global { module: text(module)?, name: text(name)? };
                self.charge(size_of::<Global>())?;
                self.push_new(Node::Global(Box::new(global)))
            }
            0x82 => {
                let [code] = self.take::<1>()?;
                self.push_new(Node::Extension(u32::from(code)))
            }
            0x83 => {
                let code = u16::from_le_bytes(self.take()?);
                self.push_new(Node::Extension(u32::from(code)))
            }
            0x84 => {
                let code = u32::from_le_bytes(self.take()?);
                self.push_new(Node::Extension(code))
            }
            b'R' | 0x81 => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.call(callable, args, None)
            }
            0x92 => {
                let (kwargs, args, callable) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callable, args, Some(kwargs))
            }
            b'i' => {
                let callable = self.global_lines()?;
                let args = self.pop_mark()?;
                let args = self.add(Node::Tuple(args))?;
                self.call(callable, args, None)
            }
            b'o' => {
                let mut args = self.pop_mark()?.into_iter();
                let callable = args.next().ok_or(Fault::Stack)?;
                let args = self.add(Node::Tuple(args.collect()))?;
                self.call(callable, args, None)
            }
            b'b' => {
                let (state, top) = (self.pop()?, self.top()?);
                match self.nodes.get_mut(top.index()) {
                    Some(Node::Object(object)) if object.state.is_none() => object.state = Some(state),
                    Some(Node::Object(_)) => return Err(Fault::State),
                    other => {
                        let found = other.map_or("nothing", |node| node.kind());
                        return Err(Fault::Kind { instruction: "a state", found });
                    }
                }
                Ok(())
            }
            b'P' => {
                let line = self.line()?;
                let id = self.add(utf8(line)?)?;
                self.push_new(Node::Persistent(id))
            }
            _ => {
                let id = self.pop()?;
                self.push_new(Node::Persistent(id))
            }
        }
    }

    fn global_lines(&mut self) -> Result<Id, Fault> {
        let mut name = || self.line().and_then(|line| Text::new(line).ok_or(Fault::Text));
        let global = Global { module: name()?, name: name()? };
        self.charge(size_of::<Global>())?;
        self.add(Node::Global(Box::new(global)))
    }

    fn call(&mut self, callable: Id, args: Id, kwargs: Option<Id>) -> Result<(), Fault> {
        self.charge(size_of::<Object>())?;
        let object = Object { callable, args, kwargs, state: None, items: vec![], pairs: vec![] };
        self.push_new(Node::Object(Box::new(object)))
    }

    fn append(&mut self, new: &[Id], instruction: &'static str) -> Result<(), Fault> {
        self.charge(new.len() * PLACE)?;
        let top = self.top()?;
        let items = match self.nodes.get_mut(top.index()) {
            Some(Node::List(items) | Node::Set(items)) => items,
            Some(Node::Object(object)) => &mut object.items,
            other => {
                let found = other.map_or("nothing", |node| node.kind());
                return Err(Fault::Kind { instruction, found });
            }
        };
        items.extend_from_slice(new);
        Ok(())
    }

    fn set(&mut self, new: &[(Id, Id)]) -> Result<(), Fault> {
        self.charge(new.len() * 2 * PLACE)?;
        let top = self.top()?;
        let pairs = match self.nodes.get_mut(top.index()) {
            Some(Node::Dict(pairs)) => pairs,
            Some(Node::Object(object)) => &mut object.pairs,
            other => {
                let found = other.map_or("nothing", |node| node.kind());
                return Err(Fault::Kind { instruction: "an assignment to a key", found });
            }
        };
        pairs.extend_from_slice(new);
        Ok(())
    }

    fn node(&self, id: Id) -> &Node {
        self.nodes.get(id.index()).unwrap_or(&Node::None)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes).ok_or(Fault::Memory(self.limit))?;
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<Id, Fault> {
        self.charge(NODE)?;
        let id = u32::try_from(self.nodes.len()).map_err(|_| Fault::Memory(self.limit))?;
        self.nodes.push(node);
        Ok(Id(id))
    }

    fn push(&mut self, id: Id) -> Result<(), Fault> {
        self.charge(PLACE)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_new(&mut self, node: Node) -> Result<(), Fault> {
        let id = self.add(node)?;
        self.push(id)
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, Fault> {
        let above = self.stack.get(self.floor()..).and_then(<[Id]>::last);
        above.copied().ok_or(Fault::Stack)
    }

    /// Takes the last value. Its place on the stack is free again.
    fn pop(&mut self) -> Result<Id, Fault> {
        let top = self.top()?;
        self.stack.pop();
        self.left = self.left.saturating_add(PLACE).min(self.limit);
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let mark = self.marks.pop().ok_or(Fault::Mark)?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    /// The next bytes of a fixed number.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let left = self.input.get(self.at..).unwrap_or(&[]);
        let array = left.first_chunk::<N>().ok_or(Fault::Truncated { needed: N as u64, left: left.len() })?;
        self.at += N;
        Ok(*array)
    }

    /// Whether so many bytes are left; their number.
    fn available(&self, length: u64) -> Result<usize, Fault> {
        let left = self.input.len().saturating_sub(self.at);
        let truncated = Fault::Truncated { needed: length, left };
        usize::try_from(length).ok().filter(|&n| n <= left).ok_or(truncated)
    }

    /// The next bytes, which share the input.
    fn bytes(&mut self, length: u64) -> Result<Bytes, Fault> {
        let length = self.available(length)?;
        let bytes = self.input.slice(self.at..self.at + length);
        self.at += length;
        Ok(bytes)
    }

    /// Bytes after their length, which takes `N` bytes.
    fn sized<const N: usize>(&mut self) -> Result<Bytes, Fault> {
        let mut length = [0; 8];
        for (to, from) in length.iter_mut().zip(self.take::<N>()?) {
            *to = from;
        }
        self.bytes(u64::from_le_bytes(length))
    }

    /// The rest of the line, without its end.
    fn line(&mut self) -> Result<Bytes, Fault> {
        let rest = self.input.get(self.at..).unwrap_or(&[]);
        let length = rest.iter().position(|&b| b == b'\n').ok_or(Fault::NoLine)?;
        let line = self.input.slice(self.at..self.at + length);
        self.at += length + 1;
        // Python 2 on Windows ends lines in two characters.
        Ok(match line.strip_suffix(b"\r") {
            Some(short) => line.slice(..short.len()),
            None => line,
        })
    }
}

fn utf8(bytes: Bytes) -> Result<Node, Fault> {
    Text::new(bytes).map(Node::Str).ok_or(Fault::Text)
}

/// An integer in two's complement, little-endian.
fn long(bytes: Bytes) -> Node {
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    let (low, high) = bytes.split_at(bytes.len().min(8));
    let mut word = [fill; 8];
    for (to, from) in word.iter_mut().zip(low) {
        *to = *from;
    }
    let value = i64::from_le_bytes(word);
    match high.iter().all(|&b| b == fill) && (value < 0) == negative {
        true => Node::Int(value),
        false => Node::Long(Long::Bytes(bytes)),
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Fault> {
    let (pairs, rest) = items.as_chunks::<2>();
    match rest.is_empty() {
        true => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        false => Err(Fault::Pairs),
    }
}
