//! A run on fixed shapes with the caller's buffers allocates nothing.
#![cfg(target_arch = "x86_64")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kiln_ir::DType;
use kiln_runtime::{RunOptions, TensorMut, TensorRef};
use support::*;

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: by the caller.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The only test of this file: other tests' threads would be counted too.
#[test]
fn run_into_allocates_nothing() {
    for threads in [1, 2, 4] {
        let session = session(chain_with_constant(4096), threads);
        let input: Vec<u8> = (0..4096u32).flat_map(u32::to_le_bytes).collect();
        let mut outputs = [vec![0u8; 4 * 4096], vec![0u8; 4 * 4096]];
        let mut run = || {
            let source = TensorRef::new(DType::U32, &[4096], &input).unwrap();
            let [a, b] = &mut outputs;
            let mut targets = [
                TensorMut::new(DType::U32, &[4096], a).unwrap(),
                TensorMut::new(DType::U32, &[4096], b).unwrap(),
            ];
            session.run_into("main", &[source], &mut targets, &RunOptions::default()).unwrap();
        };
        // The first runs bind the plan, fill the pools, and give the helper threads time to start.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            run();
        }
        let before = COUNT.load(Ordering::Relaxed);
        (0..1000).for_each(|_| run());
        let allocated = COUNT.load(Ordering::Relaxed) - before;
        assert_eq!(allocated, 0, "{threads} threads");
        assert_eq!(outputs[0][..4], 21u32.to_le_bytes());
        assert_eq!(outputs[1][4..8], 12u32.to_le_bytes());
    }
}
