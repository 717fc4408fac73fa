//! The parallel section of one inference: the thread that called `run` leads, pool threads help.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::region::{Claim, Region};
use crate::profile::Profile;

/// How long a thread spins for chunks of others before it sleeps.
pub(super) const SPIN: Duration = Duration::from_micros(50);

/// Most threads of one section.
pub const MAX_WORKERS: usize = 64;

/// Shared state of a section. Contexts keep theirs for many runs.
#[derive(Debug)]
pub struct Section {
    /// The region that runs now, and its epoch.
    current: Mutex<Option<(Arc<Region>, u32)>>,
    /// One bit per worker index in use; bit 0 is the leader's.
    members: AtomicU64,
    workers: usize,
    /// Set to drain the region without computing.
    stop: AtomicBool,
    scratch: AtomicPtr<u8>,
    scratch_stride: AtomicUsize,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    profile: Mutex<Option<Arc<Profile>>>,
}

/// A lock whose data stays consistent when a holder panics.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a helper takes part in.
pub(super) struct Membership {
    section: Arc<Section>,
    region: Arc<Region>,
    epoch: u32,
    worker: usize,
}

/// A run of a region that a helper has nothing left to do in.
pub(super) struct Left {
    region: Weak<Region>,
    epoch: u32,
}

impl Section {
    /// A section for at most `workers` threads, the leader among them.
    pub fn new(workers: usize) -> Self {
        Section {
            current: Mutex::new(None),
            members: AtomicU64::new(1),
            workers: workers.clamp(1, MAX_WORKERS),
            stop: AtomicBool::new(false),
            scratch: AtomicPtr::new(std::ptr::null_mut()),
            scratch_stride: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            profile: Mutex::new(None),
        }
    }

    /// Most threads that work in the section.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Gives the section scratch memory: `workers` areas, `stride` bytes apart.
    ///
    /// # Safety
    /// The memory stays valid and unused by others while a region runs, and no region runs now.
    pub unsafe fn set_scratch(&self, start: *mut u8, stride: usize) {
        self.scratch.store(start, Ordering::Relaxed);
        self.scratch_stride.store(stride, Ordering::Relaxed);
    }

    /// Sets where chunk times go; `None` for nowhere.
    pub fn set_profile(&self, profile: Option<Arc<Profile>>) {
        *lock(&self.profile) = profile;
    }

    /// Makes the running region end soon without computing the rest.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Makes `region` the one that helpers join.
    pub(super) fn publish(&self, region: &Arc<Region>, epoch: u32) {
        *lock(&self.current) = Some((Arc::clone(region), epoch));
    }

    /// Ends what [`Section::publish`] began.
    pub(super) fn retract(&self) {
        *lock(&self.current) = None;
    }

    /// Whether another helper could join.
    fn has_room(&self) -> bool {
        (self.members.load(Ordering::Relaxed).count_ones() as usize) < self.workers
    }

    /// Joins the running region, unless there is none, enough threads work on it, or it is the one just `left`.
    pub(super) fn join(self: &Arc<Self>, left: Option<&Left>) -> Option<Membership> {
        if !self.has_room() {
            return None;
        }
        let current = lock(&self.current);
        let (region, epoch) = current.as_ref()?;
        if left.is_some_and(|l| l.epoch == *epoch && std::ptr::eq(l.region.as_ptr(), Arc::as_ptr(region))) {
            return None;
        }
        let mut members = self.members.load(Ordering::Acquire);
        loop {
            let worker = members.trailing_ones() as usize;
            if worker >= self.workers {
                return None;
            }
            let joined = members | 1 << worker;
            match self.members.compare_exchange_weak(members, joined, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let (section, region) = (Arc::clone(self), Arc::clone(region));
                    return Some(Membership { section, region, epoch: *epoch, worker });
                }
                Err(now) => members = now,
            }
        }
    }

    /// Runs the region on the calling thread as its leader, together with whoever joins. `interrupted` is asked
    /// before every step and makes the rest of the region drain uncomputed when it says true.
    ///
    /// Returns whether all of it was computed. Returns only when no thread touches the region's buffers any more.
    pub(super) fn lead(&self, region: &Region, epoch: u32, interrupted: &mut dyn FnMut() -> bool) -> bool {
        self.walk(region, epoch, 0, interrupted);
        !self.stop.swap(false, Ordering::Relaxed)
    }

    /// Walks the region's steps: claims and computes chunks, then waits for those of others.
    fn walk(&self, region: &Region, epoch: u32, worker: usize, interrupted: &mut dyn FnMut() -> bool) {
        let scratch = self.scratch_of(worker);
        let profile = lock(&self.profile).clone();
        for (index, step) in region.steps().iter().enumerate() {
            if interrupted() {
                self.stop();
            }
            loop {
                match region.claim(index, epoch, worker) {
                    Claim::Stale => return,
                    Claim::Taken => break,
                    Claim::Chunk(chunk) => {
                        if !self.stop.load(Ordering::Relaxed) {
                            let start = profile.as_ref().map(|_| Instant::now());
                            // SAFETY: the claim succeeded and is completed below; the worker index, and with it the
                            // scratch, is this thread's alone while it is a member.
                            unsafe { region.compute(index, chunk, scratch) };
                            if let (Some(profile), Some(start)) = (&profile, start) {
                                profile.record_chunk(step, worker, chunk, start);
                            }
                        }
                        if region.complete(index) {
                            self.wake();
                        }
                    }
                }
            }
            self.wait(region, index, epoch);
        }
    }

    fn scratch_of(&self, worker: usize) -> *mut u8 {
        let stride = self.scratch_stride.load(Ordering::Relaxed);
        self.scratch.load(Ordering::Relaxed).wrapping_add(stride * worker)
    }

    /// Waits until every chunk of a step is done: spins a bounded time, then sleeps.
    fn wait(&self, region: &Region, index: usize, epoch: u32) {
        if region.is_done(index, epoch) || spin_until(|| region.is_done(index, epoch)) {
            return;
        }
        let mut guard = lock(&self.sleep);
        // The count rises before the check, and `complete` comes before the count is read in `wake`; both are
        // sequentially consistent, so one of the two threads sees the other.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !region.is_done(index, epoch) {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes threads that sleep in [`Section::wait`].
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
    }
}

impl Membership {
    /// Helps until the region has nothing left.
    pub(super) fn help(self) -> Left {
        self.section.walk(&self.region, self.epoch, self.worker, &mut || false);
        Left { region: Arc::downgrade(&self.region), epoch: self.epoch }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.section.members.fetch_and(!(1 << self.worker), Ordering::AcqRel);
    }
}

/// Spins until `done` or [`SPIN`] has passed; true if done.
pub(super) fn spin_until(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..64 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return false;
        }
    }
}
