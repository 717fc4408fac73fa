//! What can be wrong with a pickle.

/// Why bytes are no pickle, or one that Kiln does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {fault}")]
pub struct PickleError {
    /// Where the instruction begins.
    pub offset: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with an instruction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The input ends before the instruction does.
    #[error("{needed} bytes are needed and {left} are left")]
    Truncated {
        /// Bytes that the instruction announces.
        needed: u64,
        /// Bytes up to the end.
        left: usize,
    },
    /// A line without an end.
    #[error("the line has no end")]
    NoLine,
    /// The input ends without the instruction that ends a pickle.
    #[error("the pickle does not end")]
    NoStop,
    /// No protocol has this instruction.
    #[error("{0:#04x} is no instruction")]
    Opcode(u8),
    /// A protocol of the future.
    #[error("protocol {0} is not known; 0 to 5 are")]
    Protocol(u8),
    /// The instruction takes more values than there are.
    #[error("the stack is empty")]
    Stack,
    /// The instruction takes values up to a mark that is not there.
    #[error("there is no mark on the stack")]
    Mark,
    /// A value that was never put there.
    #[error("the memo has no entry {0}")]
    Memo(u64),
    /// Text that is not UTF-8, or whose escapes are wrong.
    #[error("the text is not well-formed")]
    Text,
    /// A number that does not parse, or a length below zero.
    #[error("the number is not well-formed")]
    Number,
    /// The instruction does not apply to such a value.
    #[error("{instruction} does not apply to {found}")]
    Kind {
        /// The instruction's name.
        instruction: &'static str,
        /// What the value is.
        found: &'static str,
    },
    /// Keys and values that do not pair up.
    #[error("a key has no value")]
    Pairs,
    /// A state that is set a second time.
    #[error("the object has a state already")]
    State,
    /// Data that lies outside of the pickle, where Kiln cannot know it.
    #[error("the data of a buffer lies outside of the pickle")]
    Buffer,
    /// Too much.
    #[error("the values take more than the limit of {0} bytes")]
    Memory(usize),
}
