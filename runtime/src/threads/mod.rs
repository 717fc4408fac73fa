//! Threads that help sessions. Rayon provides them; one [`Threads`] is shared by all sessions of the process.
//!
//! A run is led by the thread that called it. When it reaches a region with parallel steps it lists its section here,
//! and idle pool threads join; nothing ever waits for them to come. So a run finishes also if no pool thread gets a
//! CPU, and two runs never wait for each other.

pub mod region;
pub mod section;

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use region::Region;
use section::{Section, lock, spin_until};

/// A pool of helper threads.
pub struct Threads {
    shared: Arc<Shared>,
    /// Keeps the helpers; `None` if there are none.
    _pool: Option<rayon::ThreadPool>,
    workers: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Counts listings, so that an idle helper can spin without taking the lock.
    listings: AtomicU64,
    sleepers: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    sections: Vec<Arc<Section>>,
    closing: bool,
}

impl Threads {
    /// A pool for runs of up to `workers` threads, callers included. If the system refuses threads, runs have their
    /// caller only.
    pub fn new(workers: usize) -> Arc<Self> {
        let workers = workers.clamp(1, section::MAX_WORKERS);
        let shared = Arc::new(Shared::default());
        lock(&shared.queue).sections.reserve(64);
        let pool = (workers > 1).then(|| Threads::spawn(workers - 1, &shared)).flatten();
        let workers = if pool.is_some() { workers } else { 1 };
        Arc::new(Threads { shared, _pool: pool, workers })
    }

    fn spawn(helpers: usize, shared: &Arc<Shared>) -> Option<rayon::ThreadPool> {
        let built =
            rayon::ThreadPoolBuilder::new().num_threads(helpers).thread_name(|i| format!("kiln-{i}")).build();
        match built {
            Ok(pool) => {
                let shared = Arc::clone(shared);
                pool.spawn_broadcast(move |_| shared.serve());
                Some(pool)
            }
            Err(error) => {
                tracing::warn!(%error, "no helper threads");
                None
            }
        }
    }

    /// The process's pool: as many workers as the CPUs this process may use (affinity and cgroup quota counted).
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Threads>> = OnceLock::new();
        let pool = SHARED.get_or_init(|| {
            Threads::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
        });
        Arc::clone(pool)
    }

    /// Most threads one run can use, its caller included.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Runs `region` on the calling thread, which leads `section`, and on helpers. See [`Section::lead`].
    pub fn run(
        &self,
        section: &Arc<Section>,
        region: &Arc<Region>,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> bool {
        let epoch = region.start();
        if self.workers == 1 || section.workers() == 1 || !region.is_parallel() {
            return section.lead(region, epoch, interrupted);
        }
        section.publish(region, epoch);
        self.shared.list(section);
        let computed = section.lead(region, epoch, interrupted);
        self.shared.unlist(section);
        section.retract();
        computed
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threads({})", self.workers)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        lock(&self.shared.queue).closing = true;
        self.shared.listings.fetch_add(1, Ordering::SeqCst);
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn list(&self, section: &Arc<Section>) {
        lock(&self.queue).sections.push(Arc::clone(section));
        // Rises before the sleepers are counted, as a helper counts itself before it looks at the queue again.
        self.listings.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // A helper that has looked in vain holds the lock until it sleeps.
            drop(lock(&self.queue));
            self.work.notify_all();
        }
    }

    fn unlist(&self, section: &Arc<Section>) {
        lock(&self.queue).sections.retain(|s| !Arc::ptr_eq(s, section));
    }

    /// The life of a helper.
    fn serve(&self) {
        let mut left = None;
        loop {
            let seen = self.listings.load(Ordering::SeqCst);
            let joined = {
                let queue = lock(&self.queue);
                if queue.closing {
                    return;
                }
                queue.sections.iter().find_map(|s| s.join(left.as_ref()))
            };
            match joined {
                Some(membership) => left = Some(membership.help()),
                None => self.idle(seen),
            }
        }
    }

    /// Waits for a listing after the `seen` first ones: spins a bounded time, then sleeps.
    fn idle(&self, seen: u64) {
        let listed = || self.listings.load(Ordering::SeqCst) != seen;
        if spin_until(listed) {
            return;
        }
        let mut queue = lock(&self.queue);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !listed() && !queue.closing {
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
