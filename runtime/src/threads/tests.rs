use std::sync::Mutex;

use super::*;
use crate::abi::{KernelArgs, KernelFn};
use crate::profile::StepId;
use crate::program::FunctionId;
use region::BoundStep;

/// Defines a kernel in Rust with the kernels' calling convention.
macro_rules! kernel {
    (fn $name:ident($args:ident) $body:block) => {
        #[cfg(target_arch = "x86_64")]
        unsafe extern "sysv64" fn $name($args: *const KernelArgs) $body
        #[cfg(not(target_arch = "x86_64"))]
        unsafe extern "C" fn $name($args: *const KernelArgs) $body
    };
}

kernel! {
    // out[i] = a[i] * dims[0] + i: order of steps shows in the result.
    fn multiply_add(args) {
        // SAFETY: the tests pass two buffers of `grid` integers and one dim.
        unsafe {
            let args = &*args;
            let (a, out) = (*args.buffers as *const u64, *args.buffers.add(1) as *mut u64);
            let factor = *args.dims as u64;
            // Scratch that another worker shared would spoil the result.
            let scratch = args.scratch as *mut u64;
            for i in args.chunk_begin..args.chunk_end {
                *scratch = (*a.add(i as usize)).wrapping_mul(factor);
                *out.add(i as usize) = (*scratch).wrapping_add(i);
            }
        }
    }
}

struct Fixture {
    region: Arc<Region>,
    section: Arc<Section>,
    buffers: [Vec<u64>; 2],
    scratch: Vec<u64>,
}

/// `steps` steps that go back and forth between two buffers of `grid` integers.
fn fixture(steps: usize, grid: usize, grain: u64, workers: usize) -> Fixture {
    let mut buffers = [(0..grid as u64).collect::<Vec<_>>(), vec![0; grid]];
    let mut scratch = vec![0u64; 16 * workers];
    let kernel: KernelFn = multiply_add;
    let pointers = buffers.each_mut().map(|b| b.as_mut_ptr().cast::<u8>());
    let bound = (0..steps)
        .map(|i| BoundStep {
            kernel,
            place: StepId { function: FunctionId(0), step: i as u32 },
            pointers: i % 2,
            dims: i,
            grid: grid as u64,
            grain,
        })
        .collect();
    let dims = (0..steps as i64).map(|i| i * 2 + 3).collect();
    // SAFETY: the buffers live in the fixture; the kernel takes two pointers and one integer.
    let region = unsafe { Region::new(bound, vec![pointers[0], pointers[1], pointers[0]], dims, workers) };
    let section = Arc::new(Section::new(workers));
    // SAFETY: 16 integers a worker, alive in the fixture.
    unsafe { section.set_scratch(scratch.as_mut_ptr().cast(), 128) };
    Fixture { region: Arc::new(region), section, buffers, scratch }
}

fn expected(steps: usize, grid: usize, mut values: Vec<u64>) -> Vec<u64> {
    for step in 0..steps as u64 {
        for (i, v) in values.iter_mut().enumerate().take(grid) {
            *v = v.wrapping_mul(step * 2 + 3).wrapping_add(i as u64);
        }
    }
    values
}

fn check(threads: &Threads, steps: usize, grid: usize, grain: u64, runs: usize) {
    let f = fixture(steps, grid, grain, threads.workers());
    let mut want = f.buffers[0].clone();
    for _ in 0..runs {
        assert!(threads.run(&f.section, &f.region, &mut || false));
        want = expected(steps, grid, want);
        // SAFETY: the region is finished, so nobody writes; read through the pointer the kernels used.
        let got = unsafe { std::slice::from_raw_parts(f.buffers[steps % 2].as_ptr(), grid) };
        assert_eq!(got, want, "{steps} steps, grid {grid}, grain {grain}");
        if steps % 2 == 1 {
            // The next run starts from buffer 0 again.
            // SAFETY: as above; the two buffers do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(got.as_ptr(), f.buffers[0].as_ptr().cast_mut(), grid) };
        }
    }
    assert!(!f.scratch.is_empty());
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for workers in 1..=8 {
        let threads = Threads::new(workers);
        for (steps, grid, grain) in [(1, 1000, 7), (50, 64, 8), (301, 33, 1), (7, 5, 100)] {
            check(&threads, steps, grid, grain, 20);
        }
    }
}

#[test]
fn many_tiny_steps_in_many_runs() {
    let threads = Threads::new(4);
    check(&threads, 400, 16, 2, 200);
}

#[test]
fn sections_of_several_callers_share_the_helpers() {
    let threads = Threads::new(3);
    std::thread::scope(|scope| {
        for caller in 0..6 {
            let threads = &threads;
            scope.spawn(move || check(threads, 60 + caller, 48, 5, 40));
        }
    });
}

#[test]
fn a_stopped_region_ends_and_runs_again() {
    let threads = Threads::new(4);
    let f = fixture(100, 256, 4, 4);
    let mut left = 10;
    let computed = threads.run(&f.section, &f.region, &mut || {
        left -= 1;
        left == 0
    });
    assert!(!computed);
    assert!(threads.run(&f.section, &f.region, &mut || false));
}

#[test]
fn the_pool_ends_when_it_is_dropped() {
    let threads = Threads::new(4);
    check(&threads, 3, 64, 4, 1);
    let shared = Arc::downgrade(&threads.shared);
    drop(threads);
    let start = std::time::Instant::now();
    while shared.strong_count() > 0 {
        assert!(start.elapsed().as_secs() < 10, "helpers still run");
        std::thread::yield_now();
    }
}

#[test]
fn a_lost_race_for_listing_does_no_harm() {
    // Helpers asleep, then woken by short bursts from two callers.
    let threads = Threads::new(2);
    let done = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..30 {
                    std::thread::sleep(std::time::Duration::from_micros(200));
                    check(&threads, 4, 32, 1, 2);
                }
                *done.lock().unwrap() += 1;
            });
        }
    });
    assert_eq!(*done.lock().unwrap(), 2);
}
