//! Aligned memory that fails with a typed error, and the budget that bounds what one run may hold.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::abi::{ALIGNMENT, SLACK};

/// Memory that could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The run would hold more than its cap.
    #[error("needs {needed} bytes of memory, the cap is {cap}")]
    OverCap {
        /// Bytes the run would hold.
        needed: u64,
        /// The cap.
        cap: u64,
    },
    /// The operating system refused.
    #[error("out of memory: {0} bytes could not be allocated")]
    Refused(u64),
}

/// Zero-initialised bytes aligned to [`ALIGNMENT`], followed by [`SLACK`] readable bytes.
#[derive(Debug)]
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: the buffer owns plain bytes; access through raw pointers is ordered by whoever hands the pointers out.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access gives out only `&[u8]` and raw pointers.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: u64) -> Result<Self, MemoryError> {
        let refused = MemoryError::Refused(len);
        let bytes = usize::try_from(len).map_err(|_| refused.clone())?;
        let padded = bytes.checked_add(SLACK).ok_or(refused.clone())?;
        let layout = Layout::from_size_align(padded, ALIGNMENT).map_err(|_| refused.clone())?;
        // SAFETY: the layout has a size of at least SLACK, so it is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(refused)?;
        Ok(AlignedBuf { start, len: bytes, layout })
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<Self, MemoryError> {
        let mut buf = AlignedBuf::zeroed(bytes.len() as u64)?;
        buf.bytes_mut().copy_from_slice(bytes);
        Ok(buf)
    }

    /// Number of bytes without the slack.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First byte. Writing through it is for code that orders its accesses by other means (the executor).
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points to at least `len` initialised bytes that live as long as `self`; writers through
        // `as_ptr` promise not to write while the slice is alive.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// Counts what one run holds against a cap.
#[derive(Debug)]
pub struct Budget {
    cap: u64,
    held: AtomicU64,
    peak: AtomicU64,
}

impl Budget {
    /// A budget of `cap` bytes; `None` is unlimited.
    pub fn new(cap: Option<u64>) -> Self {
        Budget { cap: cap.unwrap_or(u64::MAX), held: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    /// Takes `bytes`, or fails and takes nothing.
    pub fn take(&self, bytes: u64) -> Result<(), MemoryError> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let needed = before.saturating_add(bytes);
        if needed > self.cap {
            self.give_back(bytes);
            return Err(MemoryError::OverCap { needed, cap: self.cap });
        }
        self.peak.fetch_max(needed, Ordering::Relaxed);
        Ok(())
    }

    /// Returns `bytes` that were taken.
    pub fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The cap; `u64::MAX` if there is none.
    pub fn cap(&self) -> u64 {
        self.cap
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Most bytes held at once so far.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        let buf = AlignedBuf::zeroed(1000).unwrap();
        assert_eq!(buf.as_ptr() as usize % ALIGNMENT, 0);
        assert_eq!(buf.bytes(), &[0u8; 1000][..]);
        assert_eq!(AlignedBuf::copy_of(b"kiln").unwrap().bytes(), b"kiln");
        assert!(AlignedBuf::zeroed(0).unwrap().is_empty());
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert_eq!(AlignedBuf::zeroed(u64::MAX).unwrap_err(), MemoryError::Refused(u64::MAX));
        assert!(AlignedBuf::zeroed(1 << 62).is_err());
    }

    #[test]
    fn the_budget_refuses_and_recovers() {
        let budget = Budget::new(Some(100));
        budget.take(60).unwrap();
        assert_eq!(budget.take(60).unwrap_err(), MemoryError::OverCap { needed: 120, cap: 100 });
        budget.give_back(30);
        budget.take(60).unwrap();
        assert_eq!((budget.held(), budget.peak()), (90, 90));
    }
}
