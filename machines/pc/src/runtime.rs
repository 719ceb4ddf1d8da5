//! What the compiler calls without being asked: copying, filling, comparing.
//!
//! String instructions: 8 bytes a step for the bulk, then bytes. Each step
//! counts as an instruction under `-icount`, so a page is cleared by 512.

use core::arch::asm;

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's ranges, each byte once, upwards.
    unsafe {
        asm!(
            "rep movsq", "mov ecx, {tail:e}", "rep movsb",
            tail = in(reg) bytes & 7, inout("rcx") bytes >> 3 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= bytes {
        // SAFETY: copying upwards reads no byte that it has written.
        return unsafe { memcpy(to, from, bytes) };
    }
    // SAFETY: the caller's ranges, downwards: the tail's bytes from the last
    // one, then words, whose address is that of their first byte.
    unsafe {
        asm!(
            "std", "rep movsb", "mov rcx, {words}", "sub rdi, 7", "sub rsi, 7", "rep movsq", "cld",
            words = in(reg) bytes >> 3, inout("rcx") bytes & 7 => _,
            inout("rdi") to.wrapping_add(bytes).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(bytes).wrapping_sub(1) => _,
            options(nostack)
        );
    }
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(at: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    let word = (value as u8 as u64) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's range, each byte once.
    unsafe {
        asm!(
            "rep stosq", "mov ecx, {tail:e}", "rep stosb",
            tail = in(reg) bytes & 7, in("rax") word, inout("rcx") bytes >> 3 => _, inout("rdi") at => _,
            options(nostack, preserves_flags)
        );
    }
    at
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    let mut at = 0;
    while at < bytes {
        // SAFETY: the caller's ranges. Volatile, lest the loop becomes a call
        // of this function.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return x as i32 - y as i32;
        }
        at += 1;
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(a, b, bytes) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut bytes = 0;
    // SAFETY: the caller's text, up to its zero.
    while unsafe { text.add(bytes).read_volatile() } != 0 {
        bytes += 1;
    }
    bytes
}

/// Named by the precompiled `core`'s unwind tables, which are not linked.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
