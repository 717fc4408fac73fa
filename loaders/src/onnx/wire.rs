//! A look at a message's bytes before they are decoded: what the decoded form will take in memory.
//!
//! An empty message takes two bytes in a file and some hundred in memory, so decoding may ask for a hundred times what
//! is there. The walk visits every field that the decoder would keep, allocates next to nothing, and stops where the
//! limit is passed or where the bytes are not well-formed; the decoder then never sees them.
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

use prost::bytes::Bytes;

use super::proto::{
    AttributeProto, DimensionProto, ElementTypeProto, FunctionProto, GraphProto, MapProto, MapTypeProto,
    ModelProto, NodeProto, OperatorSetIdProto, OptionalProto, SequenceProto, SparseTensorProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// Deepest nesting of messages, the decoder's own limit.
const MAX_DEPTH: usize = 100;

/// What a string takes in memory beside its text: the handle, and the least that an allocation takes.
const STRING: usize = size_of::<String>() + 16;

/// Why bytes are not decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes are no protobuf message.
    #[error("at byte {at}, in {message}: {reason}")]
    Malformed {
        /// Where, from the start of the bytes.
        at: usize,
        /// The innermost message.
        message: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The decoded message is too large.
    #[error("the decoded message takes more than {0} bytes")]
    TooLarge(usize),
}

/// The messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Opset,
    Entry,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    TensorType,
    ElementType,
    MapType,
    Shape,
    Dimension,
    Function,
    Sequence,
    Map,
    Optional,
}

/// A field whose decoded form is larger than its bytes. Numbers are none: they take at most eight times their bytes.
#[derive(Clone, Copy)]
enum Field {
    Message(Kind),
    /// A string, which is copied.
    Text,
    /// One of a list of byte strings, which share the file's bytes.
    Blob,
}

use Field::{Blob, Message, Text};

impl Kind {
    /// Fields that are declared in `proto`, by number.
    const fn fields(self) -> &'static [(u64, Field)] {
        match self {
            Kind::Model => &[
                (2, Text),
                (3, Text),
                (7, Message(Kind::Graph)),
                (8, Message(Kind::Opset)),
                (14, Message(Kind::Entry)),
                (25, Message(Kind::Function)),
            ],
            Kind::Opset => &[(1, Text)],
            Kind::Entry => &[(1, Text), (2, Text)],
            Kind::Graph => &[
                (1, Message(Kind::Node)),
                (2, Text),
                (5, Message(Kind::Tensor)),
                (11, Message(Kind::ValueInfo)),
                (12, Message(Kind::ValueInfo)),
                (13, Message(Kind::ValueInfo)),
                (15, Message(Kind::Sparse)),
            ],
            Kind::Node => &[
                (1, Text),
                (2, Text),
                (3, Text),
                (4, Text),
                (5, Message(Kind::Attribute)),
                (7, Text),
                (8, Text),
            ],
            Kind::Attribute => &[
                (1, Text),
                (5, Message(Kind::Tensor)),
                (6, Message(Kind::Graph)),
                (9, Blob),
                (10, Message(Kind::Tensor)),
                (11, Message(Kind::Graph)),
                (14, Message(Kind::Type)),
                (21, Text),
                (22, Message(Kind::Sparse)),
            ],
            Kind::Tensor => &[(6, Blob), (8, Text), (13, Message(Kind::Entry))],
            Kind::Sparse => &[(1, Message(Kind::Tensor)), (2, Message(Kind::Tensor))],
            Kind::ValueInfo => &[(1, Text), (2, Message(Kind::Type))],
            Kind::Type => &[
                (1, Message(Kind::TensorType)),
                (4, Message(Kind::ElementType)),
                (5, Message(Kind::MapType)),
                (8, Message(Kind::TensorType)),
                (9, Message(Kind::ElementType)),
            ],
            Kind::TensorType => &[(2, Message(Kind::Shape))],
            Kind::ElementType => &[(1, Message(Kind::Type))],
            Kind::MapType => &[(2, Message(Kind::Type))],
            Kind::Shape => &[(1, Message(Kind::Dimension))],
            Kind::Dimension => &[(2, Text)],
            Kind::Function => &[
                (1, Text),
                (4, Text),
                (5, Text),
                (6, Text),
                (7, Message(Kind::Node)),
                (9, Message(Kind::Opset)),
                (10, Text),
                (11, Message(Kind::Attribute)),
                (13, Text),
            ],
            Kind::Sequence | Kind::Optional => &[
                (1, Text),
                (3, Message(Kind::Tensor)),
                (4, Message(Kind::Sparse)),
                (5, Message(Kind::Sequence)),
                (6, Message(Kind::Map)),
                (7, Message(Kind::Optional)),
            ],
            Kind::Map => &[(1, Text), (4, Blob), (5, Message(Kind::Sequence))],
        }
    }

    /// Name, and bytes of the decoded form without what it points to.
    const fn name_and_size(self) -> (&'static str, usize) {
        match self {
            Kind::Model => ("ModelProto", size_of::<ModelProto>()),
            Kind::Opset => ("OperatorSetIdProto", size_of::<OperatorSetIdProto>()),
            Kind::Entry => ("StringStringEntryProto", size_of::<StringStringEntryProto>()),
            Kind::Graph => ("GraphProto", size_of::<GraphProto>()),
            Kind::Node => ("NodeProto", size_of::<NodeProto>()),
            Kind::Attribute => ("AttributeProto", size_of::<AttributeProto>()),
            Kind::Tensor => ("TensorProto", size_of::<TensorProto>()),
            Kind::Sparse => ("SparseTensorProto", size_of::<SparseTensorProto>()),
            Kind::ValueInfo => ("ValueInfoProto", size_of::<ValueInfoProto>()),
            Kind::Type => ("TypeProto", size_of::<TypeProto>()),
            Kind::TensorType => ("TypeProto.Tensor", size_of::<TensorTypeProto>()),
            Kind::ElementType => ("TypeProto.Sequence", size_of::<ElementTypeProto>()),
            Kind::MapType => ("TypeProto.Map", size_of::<MapTypeProto>()),
            Kind::Shape => ("TensorShapeProto", size_of::<TensorShapeProto>()),
            Kind::Dimension => ("TensorShapeProto.Dimension", size_of::<DimensionProto>()),
            Kind::Function => ("FunctionProto", size_of::<FunctionProto>()),
            Kind::Sequence => ("SequenceProto", size_of::<SequenceProto>()),
            Kind::Map => ("MapProto", size_of::<MapProto>()),
            Kind::Optional => ("OptionalProto", size_of::<OptionalProto>()),
        }
    }
}

/// The next varint and where it ends.
fn varint(bytes: &[u8], at: usize, end: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, &b) in bytes.get(at..end)?.iter().enumerate().take(10) {
        value |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return Some((value, at + i + 1));
        }
    }
    None
}

/// Checks that the decoded form of the message takes at most `limit` bytes, tensors' data and numbers aside.
pub(super) fn check(bytes: &[u8], kind: Kind, limit: usize) -> Result<(), WireError> {
    let mut memory = 0usize;
    let mut at = 0;
    // Messages that contain the current place, with their ends.
    let mut open = vec![(kind, bytes.len())];
    while let Some(&(kind, end)) = open.last() {
        if at >= end {
            open.pop();
            continue;
        }
        let (message, place) = (kind.name_and_size().0, at);
        let bad = |reason: &str| WireError::Malformed { at: place, message, reason: reason.to_owned() };
        let (tag, start) = varint(bytes, at, end).ok_or_else(|| bad("the number of a field is cut off"))?;
        let number = tag >> 3;
        let (start, size) = match tag & 7 {
            0 => match varint(bytes, start, end) {
                Some((_, next)) => (start, next - start),
                None => return Err(bad("a number is cut off")),
            },
            1 => (start, 8),
            2 => match varint(bytes, start, end) {
                Some((size, next)) => (next, usize::try_from(size).unwrap_or(usize::MAX)),
                None => return Err(bad("the length of a field is cut off")),
            },
            5 => (start, 4),
            wire => {
                return Err(bad(&format!("field {number} is of wire type {wire}, which ONNX does not use")));
            }
        };
        let next = start.checked_add(size).filter(|&next| next <= end);
        let next = next.ok_or_else(|| bad(&format!("field {number} is longer than what contains it")))?;
        at = next;
        let field = kind.fields().iter().find(|(n, _)| *n == number).filter(|_| tag & 7 == 2);
        let cost = match field {
            Some((_, Message(inner))) => {
                if open.len() >= MAX_DEPTH {
                    return Err(bad(&format!("messages are nested more than {MAX_DEPTH} deep")));
                }
                open.push((*inner, next));
                at = start;
                inner.name_and_size().1
            }
            Some((_, Text)) => STRING.saturating_add(size),
            Some((_, Blob)) => size_of::<Bytes>(),
            None => 0,
        };
        memory = memory.saturating_add(cost);
        if memory > limit {
            return Err(WireError::TooLarge(limit));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The decoder's answer to one field of these bytes.
    fn decode(kind: Kind, number: u8, payload: u8) -> Option<String> {
        let tag = (u32::from(number) << 3) | 2;
        let low = u8::try_from(tag & 0x7f).unwrap();
        let mut bytes = match u8::try_from(tag >> 7).unwrap() {
            0 => vec![low],
            high => vec![low | 0x80, high],
        };
        bytes.extend([1, payload]);
        fn error<M: prost::Message + Default>(bytes: &[u8]) -> Option<String> {
            M::decode(bytes).err().map(|e| e.to_string())
        }
        let bytes = bytes.as_slice();
        match kind {
            Kind::Model => error::<ModelProto>(bytes),
            Kind::Opset => error::<OperatorSetIdProto>(bytes),
            Kind::Entry => error::<StringStringEntryProto>(bytes),
            Kind::Graph => error::<GraphProto>(bytes),
            Kind::Node => error::<NodeProto>(bytes),
            Kind::Attribute => error::<AttributeProto>(bytes),
            Kind::Tensor => error::<TensorProto>(bytes),
            Kind::Sparse => error::<SparseTensorProto>(bytes),
            Kind::ValueInfo => error::<ValueInfoProto>(bytes),
            Kind::Type => error::<TypeProto>(bytes),
            Kind::TensorType => error::<TensorTypeProto>(bytes),
            Kind::ElementType => error::<ElementTypeProto>(bytes),
            Kind::MapType => error::<MapTypeProto>(bytes),
            Kind::Shape => error::<TensorShapeProto>(bytes),
            Kind::Dimension => error::<DimensionProto>(bytes),
            Kind::Function => error::<FunctionProto>(bytes),
            Kind::Sequence => error::<SequenceProto>(bytes),
            Kind::Map => error::<MapProto>(bytes),
            Kind::Optional => error::<OptionalProto>(bytes),
        }
    }

    #[test]
    fn the_table_has_every_field_that_the_decoder_keeps() {
        let kinds = [
            Kind::Model,
            Kind::Opset,
            Kind::Entry,
            Kind::Graph,
            Kind::Node,
            Kind::Attribute,
            Kind::Tensor,
            Kind::Sparse,
            Kind::ValueInfo,
            Kind::Type,
            Kind::TensorType,
            Kind::ElementType,
            Kind::MapType,
            Kind::Shape,
            Kind::Dimension,
            Kind::Function,
            Kind::Sequence,
            Kind::Map,
            Kind::Optional,
        ];
        for kind in kinds {
            for number in 1..=40u8 {
                let field = kind.fields().iter().find(|(n, _)| *n == u64::from(number)).map(|(_, f)| f);
                // Field 0 exists in no message, and 0xff is no text.
                let is_message = decode(kind, number, 0).is_some_and(|e| e.contains("invalid tag"));
                assert_eq!(is_message, matches!(field, Some(Message(_))), "{kind:?} {number}");
                let is_text = decode(kind, number, 0xff).is_some_and(|e| e.contains("UTF-8"));
                assert_eq!(is_text, matches!(field, Some(Text)), "{kind:?} {number}");
            }
        }
    }

    #[test]
    fn cut_and_overlong_fields_are_refused() {
        let cases: &[(&[u8], &str)] = &[
            (&[0x3a], "the length of a field is cut off"),
            (&[0x3a, 5, 1], "field 7 is longer"),
            // The inner field would end beyond the graph.
            (&[0x3a, 2, 0x0a, 5, 0, 0, 0, 0, 0], "field 1 is longer"),
            (&[0x80], "the number of a field is cut off"),
            (&[0x08, 0xff], "a number is cut off"),
            (&[0x0b, 0x0c], "wire type 3"),
        ];
        for (bytes, expected) in cases {
            let error = check(bytes, Kind::Model, 1 << 20).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        // Sequences of sequences, one in the other.
        let mut deep = vec![];
        for _ in 0..60 {
            let length = u8::try_from(deep.len()).unwrap();
            deep.splice(0..0, [0x2a, length]);
        }
        assert_eq!(check(&deep, Kind::Sequence, 1 << 20), Ok(()));
    }

    #[test]
    fn empty_messages_are_charged_at_their_decoded_size() {
        let limit = 1 << 20;
        let honest = limit / size_of::<AttributeProto>();
        let node = |attributes: usize| [0x2a, 0].repeat(attributes);
        assert_eq!(check(&node(honest), Kind::Node, limit), Ok(()));
        assert_eq!(check(&node(honest + 1), Kind::Node, limit), Err(WireError::TooLarge(limit)));
    }
}
