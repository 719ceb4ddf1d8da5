//! What a thread knows of itself: when its next allocation is guarded, and whether it is inside.
//!
//! A few numbers without an initialiser or a destructor: they are there before `main`, in handlers and
//! at the end of a thread. The countdown is what an allocation that is not guarded costs.
//!
//! # The countdown
//! `left` is the number of this thread's allocations up to and with the next guarded one. Below 2 the
//! next one takes the slow path, which draws a new number such that each allocation is as likely to be
//! guarded as any other, the first ones of a thread too. 0 is a thread that has not begun.

use crate::os;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering::*};

/// Clear at first.
pub struct Here {
    left: Cell<u32>,
    inside: Cell<bool>,
    thread: Cell<u32>,
    random: Cell<u64>,
}

#[cfg(not(target_arch = "x86_64"))]
mod place {
    use super::Here;
    use core::cell::Cell;

    thread_local! {
        static HERE: Here = const {
            Here { left: Cell::new(0), inside: Cell::new(false), thread: Cell::new(0), random: Cell::new(0) }
        };
    }

    #[inline(always)]
    pub fn with<R>(f: impl FnOnce(&Here) -> R) -> R {
        HERE.with(f)
    }
}

/// In a library that is loaded with the program, a thread's values lie at a distance from its pointer that
/// the dynamic linker knows. The compiler, which does not know that it will be, asks the linker at
/// each use instead, which costs more than the countdown. Source: "ELF Handling For Thread-Local
/// Storage", initial exec.
#[cfg(target_arch = "x86_64")]
mod place {
    use super::Here;

    core::arch::global_asm!(
        ".pushsection .tbss.vmalloc_guard_here, \"awT\", @nobits",
        ".globl vmalloc_guard_here",
        ".hidden vmalloc_guard_here",
        ".type vmalloc_guard_here, @object",
        ".size vmalloc_guard_here, {bytes}",
        ".p2align 4",
        "vmalloc_guard_here: .zero {bytes}",
        ".popsection",
        bytes = const size_of::<Here>(),
    );

    #[inline(always)]
    pub fn with<R>(f: impl FnOnce(&Here) -> R) -> R {
        let at: *const Here;
        // SAFETY: two loads of what does not change, for a thread.
        unsafe {
            core::arch::asm!(
                "mov {at}, qword ptr [rip + vmalloc_guard_here@GOTTPOFF]",
                "add {at}, qword ptr fs:[0]",
                at = out(reg) at,
                options(pure, readonly, nostack)
            );
        }
        // SAFETY: it is this thread's, as large and as aligned as that, and begins with clear bytes, which are
        // a value. No reference leaves its thread.
        f(unsafe { &*at })
    }
}

/// Threads that have begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// Whether this allocation takes the slow path.
#[inline(always)]
pub fn is_due() -> bool {
    place::with(|here| {
        let left = here.left.get();
        if left > 1 {
            here.left.set(left - 1);
        }
        left <= 1
    })
}

/// This thread begins, if it has not: its numbers follow from `seed`, and which thread it is.
pub fn begin(seed: u64, mean: u32) -> bool {
    place::with(|here| {
        let is_new = here.left.get() == 0;
        if is_new {
            let nth = BEGUN.fetch_add(1, Relaxed) + 1;
            here.random.set(mix(seed ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
            draw(mean);
        }
        is_new
    })
}

/// Spreads the bits of a number. Source: the finaliser of splitmix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Draws when the next guarded allocation is.
pub fn draw(mean: u32) {
    let left = if mean <= 1 { 1 } else { gap(random(), mean) };
    place::with(|here| here.left.set(left));
}

/// A number of tries up to and with the first success, where each succeeds as one of `mean` does.
/// Source: the inverse of the geometric distribution, at a number of 48 bits.
fn gap(random: u64, mean: u32) -> u32 {
    let uniform = (random as f64 + 0.5) / (1u64 << 48) as f64;
    let failures = ln(uniform) / ln(1.0 - 1.0 / mean as f64);
    (failures as u32).saturating_add(1)
}

/// The natural logarithm of a normal positive number, to nine digits. A library of its own is not brought
/// into every program for it.
fn ln(x: f64) -> f64 {
    const ONE: u64 = 1023 << 52;
    let exponent = (x.to_bits() >> 52) as i64 - 1023;
    let mantissa = f64::from_bits((x.to_bits() % (1 << 52)) | ONE);
    // 1 to 2 becomes 0.7 to 1.4, where the series is short: twice the inverse hyperbolic tangent of s.
    let (m, e) = if mantissa > 1.42 { (mantissa / 2.0, exponent + 1) } else { (mantissa, exponent) };
    let s = (m - 1.0) / (m + 1.0);
    let series = (0..8).rev().fold(0.0, |sum, n| sum * s * s + 1.0 / (2 * n + 1) as f64);
    2.0 * s * series + e as f64 * core::f64::consts::LN_2
}

/// No allocation of this thread is due for long.
pub fn rest() {
    place::with(|here| here.left.set(u32::MAX));
}

/// The next allocation takes the slow path.
pub fn wake() {
    place::with(|here| here.left.set(0));
}

/// Source: xorshift64*.
pub fn random() -> u64 {
    place::with(|here| {
        let mut x = here.random.get() | 1 << 63;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        here.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    })
}

/// Runs `f` unless this thread is inside already: what interrupted us, or what we call, must not come
/// back to us.
pub fn inside<R>(f: impl FnOnce() -> R) -> Option<R> {
    if place::with(|here| here.inside.replace(true)) {
        return None;
    }
    let errno = os::errno();
    let result = f();
    os::set_errno(errno);
    place::with(|here| here.inside.set(false));
    Some(result)
}

/// From now on this thread is inside.
pub fn enter() {
    place::with(|here| here.inside.set(true));
}

/// From now on it is not.
pub fn leave() {
    place::with(|here| here.inside.set(false));
}

/// Whether this thread is inside.
pub fn is_inside() -> bool {
    place::with(|here| here.inside.get())
}

/// A number that no other thread has while this one lives; in the child of a fork it is the same.
pub fn place() -> usize {
    place::with(|here| core::ptr::from_ref(here).addr())
}

/// This thread's number.
pub fn thread() -> u32 {
    place::with(|here| {
        if here.thread.get() == 0 {
            here.thread.set(os::thread());
        }
        here.thread.get()
    })
}

/// In the child of a fork, whose thread has another number.
pub fn forget_thread() {
    place::with(|here| here.thread.set(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right() {
        for x in [1e-9, 0.001, 0.3, 0.5, 0.71, 0.9, 0.999, 0.999_999, 1.0, 1.41, 1.43, 7.0] {
            assert!((ln(x) - f64::ln(x)).abs() <= 1e-9 * f64::ln(x).abs().max(1e-3), "{x}");
        }
    }

    #[test]
    fn gaps_have_their_mean_and_begin_with_one() {
        let mean = |of: u32| (0..100_000).map(|_| gap(random(), of) as f64).sum::<f64>() / 100_000.0;
        assert!((mean(10) - 10.0).abs() < 0.2, "{}", mean(10));
        assert!((mean(1000) - 1000.0).abs() < 20.0, "{}", mean(1000));
        let first = (0..100_000).filter(|_| gap(random(), 10) == 1).count();
        assert!((9_500..10_500).contains(&first), "{first}");
    }

    #[test]
    fn who_is_inside_does_not_enter_again() {
        assert_eq!(inside(|| inside(|| 1)), Some(None));
        assert!(!is_inside());
    }
}
