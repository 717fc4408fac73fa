//! Aligned memory that fails with a typed error, and the budget that bounds what one run may hold.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;

use crate::abi::{ALIGNMENT, SLACK};

/// Size and alignment of the pages that large buffers ask for.
const LARGE_PAGE: usize = 2 << 20;

/// Bytes from which a buffer asks for large pages: it outgrows what small ones keep at hand in the translation caches.
const LARGE: usize = 2 * LARGE_PAGE;

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
    owner: Owner,
}

/// Where the bytes of a buffer come from.
#[derive(Debug)]
enum Owner {
    /// The allocator.
    Heap(Layout),
    /// The operating system.
    Pages { _pages: MmapMut },
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
        if padded >= LARGE {
            return AlignedBuf::in_pages(bytes, padded).ok_or(refused);
        }
        let layout = Layout::from_size_align(padded, ALIGNMENT).map_err(|_| refused.clone())?;
        // SAFETY: the layout has a size of at least SLACK, so it is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(refused)?;
        Ok(AlignedBuf { start, len: bytes, owner: Owner::Heap(layout) })
    }

    /// Pages of zeros, large ones where the operating system has them: `padded` bytes, of which `len` count.
    fn in_pages(len: usize, padded: usize) -> Option<Self> {
        let mut pages = MmapMut::map_anon(padded.checked_add(LARGE_PAGE)?).ok()?;
        // Small pages do as well, more slowly.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        let skip = pages.as_ptr().align_offset(LARGE_PAGE);
        let start = NonNull::from(pages.get_mut(skip..skip.checked_add(padded)?)?).cast();
        Some(AlignedBuf { start, len, owner: Owner::Pages { _pages: pages } })
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
        match self.owner {
            // SAFETY: allocated in `zeroed` with this very layout.
            Owner::Heap(layout) => unsafe { dealloc(self.start.as_ptr(), layout) },
            Owner::Pages { .. } => {}
        }
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
    fn large_buffers_are_aligned_zero_and_writable_to_their_end() {
        for len in [LARGE - SLACK, LARGE - SLACK + 1, LARGE + 12345, 9 << 20] {
            let mut buf = AlignedBuf::zeroed(len as u64).unwrap();
            assert_eq!((buf.as_ptr().addr() % ALIGNMENT, buf.len()), (0, len));
            assert!(buf.bytes().iter().all(|b| *b == 0));
            buf.bytes_mut().fill(7);
            // SAFETY: the slack behind the bytes belongs to the buffer.
            let slack = unsafe { std::slice::from_raw_parts(buf.as_ptr().add(len), SLACK) };
            assert!(slack.iter().all(|b| *b == 0) && buf.bytes()[len - 1] == 7);
        }
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
