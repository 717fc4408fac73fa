//! What a compiler emits and a session runs: plain data, no pointers, no code.
//!
//! A [`Program`] is a list of functions, each a list of steps over numbered slots. A slot is one value of the
//! function: a tensor in the arena, an input, an output, a constant, a view of another slot, or an object that the
//! heap holds. Sizes, offsets and extents are [`Dim`] expressions; they are evaluated when the symbols they mention
//! are bound:
//!
//! - symbols of a function's input types are bound by unifying the declared types with the actual shapes;
//! - other symbols are bound when a host or control step produces a result whose declared type mentions them.
//!
//! Every index in a program is checked when it is loaded; the data itself promises nothing.

use std::fmt;

use kiln_ir::{DType, Dim, Type};
use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// Position in the list that holds the items.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    )*};
}

ids! {
    /// A kernel of the program.
    KernelId = "kernel";
    /// A function of the program.
    FunctionId = "fn";
    /// A slot of one function.
    SlotId = "s";
    /// A constant of the program.
    ConstantId = "c";
    /// A state of the program.
    StateId = "state";
}

/// A compiled module without its code bytes and constant data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// What made the program, for people.
    pub producer: String,
    /// [`crate::abi::ABI_VERSION`] of the code.
    pub abi_version: u32,
    /// The machine the code is for.
    pub target: Target,
    /// Kernels in the code image.
    pub kernels: Vec<KernelInfo>,
    /// Functions; entries, branches and loop bodies.
    pub functions: Vec<Function>,
    /// What callers can run.
    pub entries: Vec<Entry>,
    /// Constants, in the order of their data.
    pub constants: Vec<Constant>,
    /// Values that survive a run.
    pub states: Vec<StateDecl>,
    /// Text form of the module whose graphs the host steps name; empty if there are none.
    pub host_module: String,
}

/// Machine that code is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Architecture as `std::env::consts::ARCH` names it; empty if the program has no kernels.
    pub arch: String,
    /// CPU features that some kernel needs, by the names that `cpu` knows.
    pub features: Vec<String>,
}

/// One kernel of the code image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// Name, for profiles and listings.
    pub name: String,
    /// Byte offset of the first instruction in the code image.
    pub code_offset: u64,
    /// Bytes of code and its constant pool.
    pub code_len: u64,
    /// Scratch bytes that one call needs.
    pub scratch_bytes: u64,
    /// Number of buffer parameters.
    pub buffers: u32,
    /// Number of integer parameters.
    pub dims: u32,
    /// CPU features the kernel's bytes need.
    pub features: Vec<String>,
}

/// What a caller runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name, unique among entries.
    pub name: String,
    /// The function; its inputs and outputs correspond to the ports one by one.
    pub function: FunctionId,
    /// Named inputs.
    pub inputs: Vec<Port>,
    /// Named outputs.
    pub outputs: Vec<Port>,
}

/// A named input or output of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Name, unique among the entry's inputs or outputs.
    pub name: String,
    /// Declared type.
    pub ty: Type,
}

/// A constant whose data lies beside the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constant {
    /// Name, for listings; need not be unique.
    pub name: String,
    /// Element type of the stored (maybe packed) data.
    pub dtype: DType,
    /// Shape of the stored (maybe packed) data.
    pub dims: Vec<u64>,
}

/// A value that survives a run of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDecl {
    /// Name, unique among states.
    pub name: String,
    /// Declared type.
    pub ty: Type,
    /// Value before the first assignment; a read before it is an error if there is none.
    pub initial: Option<ConstantId>,
}

/// A list of steps over slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Name of the graph it was lowered from.
    pub name: String,
    /// All values.
    pub slots: Vec<Slot>,
    /// Steps in execution order.
    pub steps: Vec<Step>,
    /// Slots of the inputs, in order; slot `inputs[i]` has storage `Input(i)`.
    pub inputs: Vec<SlotId>,
    /// Slots of the outputs, in order; a slot of any storage may be an output, also of several.
    pub outputs: Vec<SlotId>,
    /// Arena layout where every size is a constant: see `plan`.
    pub arena: Option<ArenaLayout>,
}

/// Fixed places of a function's arena slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArenaLayout {
    /// Bytes of the whole arena.
    pub size: u64,
    /// Per slot of the function: byte offset, or `None` for slots that are not in the arena.
    pub offsets: Vec<Option<u64>>,
}

/// One value of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Type; tensors that kernels touch are dense, row-major, of known rank.
    pub ty: Type,
    /// Where the value lives.
    pub storage: Storage,
}

/// Where a slot's value lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// In the function's arena, at an offset the plan decides. Sizes that depend on symbols which are bound during
    /// the run live in memory of their own.
    Arena,
    /// The caller's input of that position; never written.
    Input(u32),
    /// The memory of the function's output of that position: kernels write the result in place.
    Output(u32),
    /// A constant; never written.
    Constant(ConstantId),
    /// The bytes of another slot from a byte offset on: reshapes, contiguous slices, and results that a kernel writes
    /// over an operand that dies there.
    View {
        /// The slot whose bytes are shared.
        of: SlotId,
        /// Byte offset in that slot.
        offset: Dim,
    },
    /// A value on the heap: results of host steps, sequences, optionals, strings, tensors of unknown shape. Kernels
    /// may read a tensor that a host step left here.
    Object,
}

/// One step of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// Names of the source nodes, for errors and profiles.
    pub provenance: Vec<String>,
}

/// How two dims must relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// Both are the same.
    Equal,
    /// The first is not larger.
    AtMost,
}

impl Relation {
    /// Whether it holds.
    pub fn holds(self, left: i64, right: i64) -> bool {
        match self {
            Relation::Equal => left == right,
            Relation::AtMost => left <= right,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Relation::Equal => "=",
            Relation::AtMost => "<=",
        })
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Runs a kernel over its grid.
    Kernel(KernelCall),
    /// Evaluates a graph of the host module with the reference evaluator.
    Host {
        /// Name of the graph.
        graph: String,
        /// Operands, in the order of the graph's inputs.
        operands: Vec<SlotId>,
        /// Results, in the order of the graph's outputs; their storage is [`Storage::Object`]. Symbols of their
        /// types that are not bound yet are bound from the actual shapes, others are checked.
        results: Vec<SlotId>,
    },
    /// Runs one of two functions.
    If {
        /// A bool tensor of one element.
        condition: SlotId,
        /// Function for true.
        then_branch: FunctionId,
        /// Function for false; same inputs and outputs.
        else_branch: FunctionId,
        /// Operands of either function.
        operands: Vec<SlotId>,
        /// Results of either function.
        results: Vec<SlotId>,
    },
    /// Runs a function repeatedly, as ONNX `Loop` does.
    ///
    /// The body's inputs are: iteration number (i64 scalar), condition (bool scalar), carried values, captured values.
    /// Its outputs are: condition (bool scalar), carried values, scanned values.
    Loop {
        /// Function of one iteration.
        body: FunctionId,
        /// Largest number of iterations, an i64 tensor of one element; without it there is no limit.
        trip_count: Option<SlotId>,
        /// Condition before the first iteration, a bool tensor of one element; true without it.
        condition: Option<SlotId>,
        /// Initial carried values.
        carried: Vec<SlotId>,
        /// Values that every iteration gets.
        captured: Vec<SlotId>,
        /// Last carried values, then the scanned values stacked along a new first axis.
        results: Vec<SlotId>,
    },
    /// Runs a function.
    Call {
        /// The function.
        function: FunctionId,
        /// Operands.
        operands: Vec<SlotId>,
        /// Results.
        results: Vec<SlotId>,
    },
    /// Gives symbols the elements of an i64 vector, one for each dim: a dim that is a symbol without a value takes the
    /// element, any other must have it. A negative element is an error.
    Sizes {
        /// The vector.
        from: SlotId,
        /// The dims.
        dims: Vec<Dim>,
    },
    /// Copies all bytes of a tensor into another slot of the same size.
    Copy {
        /// Source.
        from: SlotId,
        /// Destination.
        to: SlotId,
    },
    /// Fails unless the two dims relate so.
    Check {
        /// One side.
        left: Dim,
        /// How they must relate.
        relation: Relation,
        /// Other side.
        right: Dim,
        /// What the relation means, for the error.
        what: String,
    },
    /// Reads a state; the result's storage is [`Storage::Object`].
    StateRead {
        /// The state.
        state: StateId,
        /// Where it goes.
        result: SlotId,
    },
    /// Replaces a state, for later runs and later reads of this run.
    StateAssign {
        /// The state.
        state: StateId,
        /// The new value.
        value: SlotId,
    },
}

/// One run of a kernel over its grid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCall {
    /// The kernel.
    pub kernel: KernelId,
    /// Buffer arguments, in kernel order.
    pub buffers: Vec<BufferArg>,
    /// Integer arguments, in kernel order.
    pub dims: Vec<Dim>,
    /// Number of indices of the flattened parallel grid; a call with 0 does nothing.
    pub grid: Dim,
    /// Grid indices in one chunk, the unit of work that a thread takes; fixed by shapes, never by the thread count.
    pub grain: Dim,
    /// Arithmetic operations, without loads and conversions, for scheduling and profiles.
    pub flops: Dim,
    /// Bytes read and written, for scheduling and profiles.
    pub bytes: Dim,
}

/// One buffer argument of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferArg {
    /// The slot.
    pub slot: SlotId,
    /// Byte offset of the pointer that the kernel gets, from the slot's first byte.
    pub offset: Dim,
    /// Bytes from that pointer on which the kernel may touch; checked against the slot's size when bound.
    pub len: Dim,
    /// What the kernel does with them.
    pub access: Access,
}

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Access {
    /// Only reads.
    Read,
    /// Writes, and may read what it wrote.
    Write,
    /// Reads and writes.
    ReadWrite,
}

impl Access {
    /// Whether the kernel writes.
    pub const fn writes(self) -> bool {
        matches!(self, Access::Write | Access::ReadWrite)
    }
}

impl Program {
    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// The function of that id.
    pub fn function(&self, id: FunctionId) -> Option<&Function> {
        self.functions.get(id.index())
    }

    /// The kernel of that id.
    pub fn kernel(&self, id: KernelId) -> Option<&KernelInfo> {
        self.kernels.get(id.index())
    }

    /// The constant of that id.
    pub fn constant(&self, id: ConstantId) -> Option<&Constant> {
        self.constants.get(id.index())
    }
}

impl Constant {
    /// Bytes of the stored data; `None` on overflow and for strings.
    pub fn byte_len(&self) -> Option<u64> {
        let count = self.dims.iter().try_fold(1u64, |a, &d| a.checked_mul(d))?;
        self.dtype.bytes_for(usize::try_from(count).ok()?).and_then(|b| u64::try_from(b).ok())
    }
}
