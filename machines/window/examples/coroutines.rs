//! 20,000 coroutines of `corosensei`, each on a stack of a pool, all alive at once.
//!
//!     cargo run --release -p vmalloc-window --example coroutines

use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult};
use std::hint::black_box;
use std::sync::Arc;
use vmalloc_window::{PooledStack, StackPool};

/// What `corosensei` runs on.
struct Pooled(PooledStack<Arc<StackPool>>);

// SAFETY: the bytes between the two are this one's alone until it is dropped, and the page below the
// lowest one faults.
unsafe impl Stack for Pooled {
    fn base(&self) -> StackPointer {
        self.0.top().addr()
    }
    fn limit(&self) -> StackPointer {
        self.0.bottom().addr()
    }
}

/// Sums the numbers up to `n`, and stops at each: a frame of the stack for each of them.
fn sum(n: u64, stop: &corosensei::Yielder<(), u64>) -> u64 {
    stop.suspend(n);
    if n == 0 { 0 } else { n + black_box(sum(n - 1, stop)) }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const COROUTINES: u64 = 20_000;
    let pool = Arc::new(StackPool::new(64 << 10, COROUTINES as usize)?);
    let mut running = Vec::new();
    for n in 0..COROUTINES {
        let stack = Pooled(PooledStack::of(Arc::clone(&pool))?);
        running.push(Coroutine::with_stack(stack, move |stop, ()| sum(n % 100, stop)));
    }
    let maps = std::fs::read_to_string("/proc/self/maps")?.lines().count();
    let mut total = 0;
    while !running.is_empty() {
        running.retain_mut(|coroutine| match coroutine.resume(()) {
            CoroutineResult::Yield(_) => true,
            CoroutineResult::Return(sum) => {
                total += sum;
                false
            }
        });
    }
    assert_eq!(total, (0..COROUTINES).map(|n| (n % 100) * (n % 100 + 1) / 2).sum());
    println!("{COROUTINES} coroutines on stacks of {} bytes: {maps} mappings of the process", pool.bytes());
    println!("the deepest stack had {} bytes in use", pool.deepest());
    Ok(())
}
