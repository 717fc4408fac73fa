//! A program together with its code bytes and the data of its constants.

use std::fmt;
use std::sync::Arc;

use kiln_ir::Bytes;

use crate::program::Program;

/// A compiled module in memory: what a compiler hands over, what an artifact stores, what a session runs.
#[derive(Clone, Debug)]
pub struct Image {
    /// The plan.
    pub program: Program,
    /// Machine code; kernels are ranges of it.
    pub code: Vec<u8>,
    /// Data of `program.constants`, one by one.
    pub constants: Vec<ConstantData>,
}

/// Bytes of one constant, owned or shared with whatever holds them (a mapped weight file, a tensor).
#[derive(Clone)]
pub struct ConstantData(Bytes);

impl ConstantData {
    /// Shares all of `bytes`, which must stay the same for as long as they are shared.
    pub fn shared(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let len = (*bytes).as_ref().len();
        ConstantData(Bytes::shared(bytes, 0..len).unwrap_or_else(|| Bytes::zeroed(0)))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The bytes with their shared ownership.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl From<Bytes> for ConstantData {
    fn from(bytes: Bytes) -> Self {
        ConstantData(bytes)
    }
}

impl From<Vec<u8>> for ConstantData {
    fn from(bytes: Vec<u8>) -> Self {
        ConstantData::shared(Arc::new(bytes))
    }
}

impl fmt::Debug for ConstantData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConstantData({} bytes)", self.bytes().len())
    }
}
