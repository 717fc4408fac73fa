//! A run of kernel steps with everything bound, and the chunk cursors by which threads share it.
//!
//! Guarantees:
//! - Chunks depend on the steps only, so results do not depend on who computes them.
//! - A chunk of a step starts only when every chunk of the steps before it is done.
//! - A thread waits for chunks, never for threads: one that nobody has claimed is claimed by whoever waits for it.
//! - Every worker begins in a lane of its own, a contiguous part of a step's chunks, and takes those of others when its
//!   own are gone: what a worker wrote in one step it mostly reads in the next, out of its own caches.
//! - Once the last step's chunks are done, no thread reads an argument of the region or touches a buffer any more. Threads that
//!   still hold the region (it is reference-counted) look at its counters only.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::abi::{HELPER_TABLE, KernelArgs, KernelFn};
use crate::profile::StepId;

/// Largest number of chunks of one step.
pub const MAX_CHUNKS: u64 = 1 << 30;

/// Most lanes of a step; more workers share them.
const MAX_LANES: usize = 16;

/// A kernel call with its arguments.
#[derive(Debug)]
pub struct BoundStep {
    /// The code.
    pub kernel: KernelFn,
    /// The function and the step in it, for profiles.
    pub place: StepId,
    /// Position of the first buffer pointer in the region's table.
    pub pointers: usize,
    /// Position of the first integer in the region's table.
    pub dims: usize,
    /// Grid indices.
    pub grid: u64,
    /// Grid indices in a chunk; at least 1.
    pub grain: u64,
}

impl BoundStep {
    /// Number of chunks.
    pub fn chunks(&self) -> u32 {
        // Binding keeps the number below MAX_CHUNKS.
        u32::try_from(self.grid.div_ceil(self.grain)).unwrap_or(u32::MAX)
    }
}

/// Progress of one step. Its own cache lines: every thread writes them.
#[repr(align(128))]
#[derive(Debug)]
struct Progress {
    done: AtomicU32,
    chunks: u32,
}

/// A part of a step's chunks. Its own cache lines: mostly one thread writes them.
#[repr(align(128))]
#[derive(Debug)]
struct Lane {
    /// Epoch of the region in the high half, next unclaimed chunk in the low half.
    cursor: AtomicU64,
    begin: u32,
    end: u32,
}

impl Lane {
    /// The next chunk of the lane.
    fn claim(&self, epoch: u32) -> Claim {
        let mut cursor = self.cursor.load(Ordering::Acquire);
        loop {
            if (cursor >> 32) as u32 != epoch {
                return Claim::Stale;
            }
            let next = cursor as u32;
            if next >= self.end {
                return Claim::Taken;
            }
            let claimed =
                self.cursor.compare_exchange_weak(cursor, cursor + 1, Ordering::AcqRel, Ordering::Acquire);
            match claimed {
                Ok(_) => return Claim::Chunk(next),
                Err(now) => cursor = now,
            }
        }
    }
}

/// What claiming a chunk gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This chunk is the caller's to compute.
    Chunk(u32),
    /// Every chunk is taken.
    Taken,
    /// The region has been started anew, or not at all: nothing here is the caller's business.
    Stale,
}

/// Bound steps, their argument tables and their progress.
#[derive(Debug)]
pub struct Region {
    steps: Vec<BoundStep>,
    pointers: Vec<AtomicPtr<u8>>,
    dims: Vec<i64>,
    progress: Vec<Progress>,
    /// The lanes of every step, step after step.
    lanes: Vec<Lane>,
    /// Lanes of a step; at least 1.
    lane_count: usize,
    epoch: AtomicU32,
    parallel: bool,
}

impl Region {
    /// A region over these steps and argument tables, for about `workers` threads.
    ///
    /// # Safety
    /// `kernel` of every step is code that follows [`crate::abi`], takes no more buffers and integers than lie in the
    /// tables from the step's positions on, and touches only its buffers' bytes that the caller keeps valid (and
    /// otherwise unused) while the region runs.
    pub unsafe fn new(steps: Vec<BoundStep>, pointers: Vec<*mut u8>, dims: Vec<i64>, workers: usize) -> Self {
        let lane_count = workers.clamp(1, MAX_LANES);
        let progress =
            steps.iter().map(|s| Progress { done: AtomicU32::new(0), chunks: s.chunks() }).collect();
        let part = |chunks: u32, lane: usize| (u64::from(chunks) * lane as u64 / lane_count as u64) as u32;
        let lane = |chunks: u32, lane: usize| Lane {
            cursor: AtomicU64::new(0),
            begin: part(chunks, lane),
            end: part(chunks, lane + 1),
        };
        let lanes = steps.iter().flat_map(|s| (0..lane_count).map(move |i| lane(s.chunks(), i))).collect();
        let parallel = steps.iter().any(|s| s.chunks() > 1);
        let pointers = pointers.into_iter().map(AtomicPtr::new).collect();
        Region { steps, pointers, dims, progress, lanes, lane_count, epoch: AtomicU32::new(0), parallel }
    }

    /// The steps.
    pub fn steps(&self) -> &[BoundStep] {
        &self.steps
    }

    /// Whether a second thread could help.
    pub fn is_parallel(&self) -> bool {
        self.parallel
    }

    /// Replaces one buffer pointer; only while the region is not running.
    pub fn set_pointer(&self, index: usize, pointer: *mut u8) {
        if let Some(slot) = self.pointers.get(index) {
            slot.store(pointer, Ordering::Relaxed);
        }
    }

    /// Starts the region anew and returns the epoch that claims must name. Only after it is finished.
    pub fn start(&self) -> u32 {
        let epoch = self.epoch.load(Ordering::Relaxed).wrapping_add(1);
        self.epoch.store(epoch, Ordering::Relaxed);
        for progress in &self.progress {
            progress.done.store(0, Ordering::Relaxed);
        }
        for lane in &self.lanes {
            // Whoever reads the new epoch here also sees the pointers and the reset counts.
            lane.cursor.store(u64::from(epoch) << 32 | u64::from(lane.begin), Ordering::Release);
        }
        epoch
    }

    /// Claims a chunk of the step at `index`: of the worker's own lane, or else of another.
    pub fn claim(&self, index: usize, epoch: u32, worker: usize) -> Claim {
        for turn in 0..self.lane_count {
            let lane = (worker + turn) % self.lane_count;
            match self.lanes.get(index * self.lane_count + lane).map(|lane| lane.claim(epoch)) {
                Some(Claim::Taken) => {}
                Some(claim) => return claim,
                None => return Claim::Stale,
            }
        }
        Claim::Taken
    }

    /// Says that a claimed chunk is done; true for the last of the step.
    pub fn complete(&self, index: usize) -> bool {
        // Sequentially consistent: pairs with the sleeper count of `Section`, see `Section::wake`.
        self.progress.get(index).is_some_and(|p| p.done.fetch_add(1, Ordering::SeqCst) + 1 == p.chunks)
    }

    /// Whether every chunk of the step at `index` is done, or the epoch is over.
    pub fn is_done(&self, index: usize, epoch: u32) -> bool {
        let Some(progress) = self.progress.get(index) else { return true };
        let lane = self.lanes.get(index * self.lane_count);
        progress.done.load(Ordering::SeqCst) == progress.chunks
            || lane.is_none_or(|lane| (lane.cursor.load(Ordering::Acquire) >> 32) as u32 != epoch)
    }

    /// Computes one chunk.
    ///
    /// # Safety
    /// The chunk is the caller's by a successful [`Region::claim`] that is not completed yet (or no other thread has
    /// the region), and `scratch` is the calling thread's alone and as large as the kernel needs.
    pub unsafe fn compute(&self, index: usize, chunk: u32, scratch: *mut u8) {
        let Some(step) = self.steps.get(index) else { return };
        let begin = u64::from(chunk) * step.grain;
        let args = KernelArgs {
            // An AtomicPtr has the same layout as the pointer in it, and nobody stores to it while a chunk is claimed.
            buffers: self.pointers.get(step.pointers..).unwrap_or(&[]).as_ptr().cast::<*mut u8>(),
            dims: self.dims.get(step.dims..).unwrap_or(&[]).as_ptr(),
            helpers: &raw const HELPER_TABLE,
            scratch,
            chunk_begin: begin,
            chunk_end: begin.saturating_add(step.grain).min(step.grid),
        };
        // SAFETY: the constructor's caller vouches for kernel, tables and buffers; the claim makes the chunk ours and
        // keeps the region running; the scratch is ours by this function's contract.
        unsafe { (step.kernel)(&raw const args) }
    }
}
