//! Unwinding with a memory: what `.eh_frame` says of an address of code is read once.
//!
//! A frame of compiled code is nearly always described by three numbers: which register its base is
//! counted from, how far, and where it keeps its caller's `rbp`. They are a [`Rule`], and rules are kept by
//! address. A frame is then a few loads, where reading the tables takes a microsecond.
//!
//! # Rules
//! - **U1** A rule is used only in the module that it was read from: one that was unloaded, with another one
//!   in its place, has other tables. A module is known by where its tables are and by its record in the
//!   dynamic linker, which is asked at each change of modules, without a lock (glibc 2.35).
//! - **U2** A walk ends with a frame that has no such rule, or belongs to no module. The first frame of a
//!   coroutine may return to anywhere: the compiler's library would read the code there.
//! - **U3** Bases grow from each frame to its caller's, but from a signal handler's, which may have a stack
//!   of its own.
//! - **U4** No word is believed to be readable. A module may be another one that has the same place and the
//!   same tables as one that was unloaded, and a stack may end. What reads words for a backtrace of a call
//!   is one instruction, and a fault there is caught (`rescue`); for one of a fault, and in a thread that keeps
//!   the signals of faults out, for which Linux would kill the program, Linux is asked.

use crate::aside;
use crate::os::{Mask, PAGE, peek};
use crate::trace::Registers;
use core::cell::OnceCell;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use gimli::{BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, NativeEndian, Register, RegisterRule};
use gimli::{Pointer, UnwindContext, UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow, X86_64};
use libc::{REG_RBP, REG_RIP, REG_RSP, SIGBUS, SIGSEGV, ucontext_t};

/// Rules that are kept: 256 KiB, of which programs touch what they use.
const KEPT: usize = 1 << 14;
/// Frames of a walk, the guard's own included.
const FRAMES: usize = 64;

/// How a frame's caller is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// The base is `rsp` and this much.
    Sp(u32, Saved),
    /// The base is `rbp` and this much.
    Bp(u32, Saved),
    /// As `Bp`, of a stack that the function has aligned: the base is the word at `rbp` less this much, and
    /// the caller's `rbp` is where this one points to.
    Aligned(u32),
    /// Linux interrupted the caller, and has its registers on the stack.
    Signal,
    /// Nobody called.
    End,
    /// See U2.
    Unknown,
}

/// Where the caller's `rbp` is: so many words below the base; 0 = still in `rbp`.
type Saved = u32;

/// A rule in a word: four bits for which, 22 for the words of the distance, 20 for the saved register, 16
/// for the module.
fn pack(rule: Rule, module: u16) -> u64 {
    let (which, words, saved) = match rule {
        Rule::Sp(bytes, saved) => (0, bytes / 8, saved),
        Rule::Bp(bytes, saved) => (1, bytes / 8, saved),
        Rule::Aligned(bytes) => (2, bytes / 8, 0),
        Rule::Signal => (3, 0, 0),
        Rule::End => (4, 0, 0),
        Rule::Unknown => (5, 0, 0),
    };
    which | (words as u64) << 4 | (saved as u64) << 26 | (module as u64) << 48
}

fn unpack(word: u64) -> (Rule, u16) {
    let (bytes, saved) = ((word >> 4) as u32 % (1 << 22) * 8, (word >> 26) as u32 % (1 << 20));
    let rule = match word % 16 {
        0 => Rule::Sp(bytes, saved),
        1 => Rule::Bp(bytes, saved),
        2 => Rule::Aligned(bytes),
        3 => Rule::Signal,
        4 => Rule::End,
        _ => Rule::Unknown,
    };
    (rule, (word >> 48) as u16)
}

/// A kept rule. The first word is the address, and the second one over it: of two writers at once, none is
/// believed.
struct Kept([AtomicU64; 2]);

static RULES: [Kept; KEPT] = [const { Kept([const { AtomicU64::new(0) }; 2]) }; KEPT];

fn kept(pc: usize) -> &'static Kept {
    &RULES[pc.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (usize::BITS - KEPT.ilog2())]
}

/// What the dynamic linker says of an address. Source: `struct dl_find_object` of `dlfcn.h`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Module {
    flags: u64,
    start: usize,
    end: usize,
    record: usize,
    tables: usize,
    reserved: [u64; 7],
}

type Find = unsafe extern "C" fn(*mut c_void, *mut Module) -> c_int;

/// `_dl_find_object`; 0 = there is none.
static FIND: AtomicUsize = AtomicUsize::new(0);

/// Looks for what the dynamic linker has to offer.
pub fn prime() {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr()) };
    FIND.store(found.addr(), Release);
}

impl Module {
    const NONE: Module = Module { flags: 0, start: 0, end: 0, record: 0, tables: 0, reserved: [0; 7] };

    /// The module with the code at `pc`.
    fn of(pc: usize) -> Option<Module> {
        let find = FIND.load(Acquire);
        if find == 0 {
            return None;
        }
        let mut module = Module::NONE;
        // SAFETY: `prime` found a function of this form, which fills the record.
        let found = unsafe {
            let find = core::mem::transmute::<usize, Find>(find);
            find(core::ptr::without_provenance_mut(pc), &mut module)
        };
        (found == 0 && module.tables != 0).then_some(module)
    }

    /// U1.
    fn tag(&self) -> u16 {
        ((self.record ^ self.tables.rotate_left(20)).wrapping_mul(0x517c_c1b7_2722_0a95) >> 48) as u16
    }

    /// The rule for the code at `pc`.
    fn rule(&self, pc: usize) -> Rule {
        let (kept, tag) = (kept(pc), self.tag());
        let word = kept.0[1].load(Relaxed);
        if kept.0[0].load(Relaxed) ^ word == pc as u64 && unpack(word).1 == tag {
            return unpack(word).0;
        }
        let mut rule = Rule::Unknown;
        aside::run(&mut || rule = self.read(pc).unwrap_or(Rule::Unknown));
        let word = pack(rule, tag);
        kept.0[0].store(pc as u64 ^ word, Relaxed);
        kept.0[1].store(word, Relaxed);
        rule
    }

    /// The bytes from `at` to the end of the module.
    fn bytes(&self, at: usize) -> EndianSlice<'static, NativeEndian> {
        let len = self.end.saturating_sub(at);
        // SAFETY: the module's, which is loaded: it has the frame of a caller. What is read of it is what its
        // tables name.
        let bytes = unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(at), len) };
        EndianSlice::new(bytes, NativeEndian)
    }

    /// What the tables say.
    #[cold]
    #[inline(never)]
    fn read(&self, pc: usize) -> Option<Rule> {
        let bases = BaseAddresses::default().set_eh_frame_hdr(self.tables as u64);
        let header = EhFrameHdr::from(self.bytes(self.tables)).parse(&bases, 8).ok()?;
        let Pointer::Direct(frames) = header.eh_frame_ptr() else { return None };
        let bases = bases.set_eh_frame(frames);
        let frames = EhFrame::from(self.bytes(frames as usize));
        let entry = header.table()?.fde_for_address(&frames, &bases, pc as u64, EhFrame::cie_from_offset).ok()?;
        if entry.is_signal_trampoline() {
            return Some(Rule::Signal);
        }
        let mut room = UnwindContext::<usize, Room>::new_in();
        rule_of(&frames, entry.unwind_info_for_address(&frames, &bases, &mut room, pc as u64).ok()?)
    }
}

/// Few registers and a short stack, which is on ours.
struct Room;

impl UnwindContextStorage<usize> for Room {
    type Rules = [(Register, RegisterRule<usize>); 20];
    type Stack = [UnwindTableRow<usize, Room>; 3];
}

type Frames = EhFrame<EndianSlice<'static, NativeEndian>>;

fn rule_of(frames: &Frames, row: &UnwindTableRow<usize, Room>) -> Option<Rule> {
    match row.register(X86_64::RA) {
        Some(RegisterRule::Undefined) => return Some(Rule::End),
        Some(RegisterRule::Offset(-8)) => (),
        _ => return None,
    }
    let saved = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => 0,
        Some(RegisterRule::Offset(bytes)) => words(-bytes)?,
        Some(RegisterRule::Expression(at)) => return aligned(frames, row, &at),
        Some(_) => return None,
    };
    let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return None };
    let bytes = words(*offset)? * 8;
    match *register {
        X86_64::RSP => Some(Rule::Sp(bytes, saved)),
        X86_64::RBP => Some(Rule::Bp(bytes, saved)),
        _ => None,
    }
}

/// What compilers write for a stack that a function aligns: the base is at -N(rbp), and `rbp` at 0(rbp).
/// Source: DWARF 5, 2.5.1: DW_OP_breg6, a number, DW_OP_deref.
fn aligned(frames: &Frames, row: &UnwindTableRow<usize, Room>, saved: &UnwindExpression<usize>) -> Option<Rule> {
    const BREG6: u8 = 0x76;
    const DEREF: u8 = 6;
    let CfaRule::Expression(base) = row.cfa() else { return None };
    let (base, saved) = (base.get(frames).ok()?, saved.get(frames).ok()?);
    match (base.0.slice(), saved.0.slice()) {
        // A number of one byte below zero: 7 bits.
        ([BREG6, less @ 0x40..=0x7f, DEREF], [BREG6, 0]) => Some(Rule::Aligned(words(128 - *less as i64)? * 8)),
        _ => None,
    }
}

/// A positive distance in words, if it fits a rule.
fn words(bytes: i64) -> Option<u32> {
    (bytes > 0 && bytes % 8 == 0 && bytes < 8 << 20).then_some((bytes / 8) as u32)
}

impl Registers {
    #[inline(always)]
    fn here() -> Registers {
        let (pc, sp, bp);
        // SAFETY: registers are looked at.
        unsafe {
            core::arch::asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) pc, out(reg) sp, out(reg) bp, options(nomem, preserves_flags));
        }
        Registers { pc, sp, bp }
    }

    /// The caller's registers, and the base of this frame. U3.
    #[inline(always)]
    fn up(&self, rule: Rule, read: impl Fn(usize) -> Option<usize>) -> Option<(Registers, usize)> {
        let (base, bp) = match rule {
            Rule::Sp(bytes, saved) => (self.sp.wrapping_add(bytes as usize), saved),
            Rule::Bp(bytes, saved) => (self.bp.wrapping_add(bytes as usize), saved),
            Rule::Aligned(bytes) => return self.up_aligned(bytes as usize, read),
            Rule::Signal => return self.interrupted(read),
            Rule::End | Rule::Unknown => return None,
        };
        let bp = if bp == 0 { self.bp } else { read(base.wrapping_sub(bp as usize * 8))? };
        self.returned(base, bp, read)
    }

    #[inline(always)]
    fn returned(&self, base: usize, bp: usize, read: impl Fn(usize) -> Option<usize>) -> Option<(Registers, usize)> {
        if base <= self.sp || !base.is_multiple_of(8) {
            return None;
        }
        Some((Registers { pc: read(base - 8)?, sp: base, bp }, base))
    }

    #[cold]
    fn up_aligned(&self, bytes: usize, read: impl Fn(usize) -> Option<usize>) -> Option<(Registers, usize)> {
        let base = read(self.bp.wrapping_sub(bytes))?;
        self.returned(base, read(self.bp)?, read)
    }

    /// Above what a handler returns to lies the record that Linux made: a `ucontext_t`.
    #[cold]
    fn interrupted(&self, read: impl Fn(usize) -> Option<usize>) -> Option<(Registers, usize)> {
        let registers = self.sp.wrapping_add(core::mem::offset_of!(ucontext_t, uc_mcontext.gregs));
        let register = |n: c_int| read(registers.wrapping_add(n as usize * 8));
        let was = Registers { pc: register(REG_RIP)?, sp: register(REG_RSP)?, bp: register(REG_RBP)? };
        Some((was, self.sp))
    }
}

// A load that may fault. What it returns beside the word is whether it has.
core::arch::global_asm!(
    ".pushsection .text.vmalloc_guard_read, \"ax\", @progbits",
    ".globl vmalloc_guard_read",
    ".hidden vmalloc_guard_read",
    ".type vmalloc_guard_read, @function",
    "vmalloc_guard_read:",
    "mov rax, qword ptr [rdi]",
    "xor edx, edx",
    "ret",
    ".globl vmalloc_guard_read_failed",
    ".hidden vmalloc_guard_read_failed",
    "vmalloc_guard_read_failed:",
    "mov edx, 1",
    "ret",
    ".popsection",
);

#[repr(C)]
struct Read {
    word: usize,
    has_failed: usize,
}

// SAFETY: the assembly above has both. The first takes any address; the second is none to be called.
unsafe extern "C" {
    safe fn vmalloc_guard_read(at: usize) -> Read;
    fn vmalloc_guard_read_failed();
}

fn read(at: usize) -> Option<usize> {
    let Read { word, has_failed } = vmalloc_guard_read(at);
    (has_failed == 0).then_some(word)
}

/// After a fault: whether it was that of [`read`], which then goes on with its failure. U4.
pub fn rescue(context: &mut ucontext_t) -> bool {
    let at = &mut context.uc_mcontext.gregs[REG_RIP as usize];
    let is_ours = *at as usize == vmalloc_guard_read as *const () as usize;
    if is_ours {
        *at = vmalloc_guard_read_failed as *const () as i64;
    }
    is_ours
}

fn are_faults_kept_out() -> bool {
    let mask = Mask::now();
    [SIGSEGV, SIGBUS].into_iter().any(|signal| mask.has(signal))
}

/// Calls `f` with the address and the base of each frame, until it returns false. False if nobody can tell
/// which modules there are.
#[inline(never)]
pub fn walk(f: &mut dyn FnMut(usize, usize) -> bool) -> bool {
    let (here, kept_out) = (Registers::here(), OnceCell::new());
    let is_near = |at: usize| at / PAGE == here.sp / PAGE;
    let is_kept_out = || *kept_out.get_or_init(are_faults_kept_out);
    walk_by(here, |at| if is_near(at) || !is_kept_out() { read(at) } else { peek(at) }, f);
    FIND.load(Relaxed) != 0
}

/// As [`walk`], from where a thread was when it was interrupted.
pub fn walk_from(at: Registers, f: &mut dyn FnMut(usize, usize) -> bool) {
    walk_by(at, peek, f);
}

#[inline(always)]
fn walk_by(mut at: Registers, read: impl Fn(usize) -> Option<usize>, f: &mut dyn FnMut(usize, usize) -> bool) {
    let (mut module, mut is_exact) = (Module::NONE, true);
    for _ in 0..FRAMES {
        // A call may be the last instruction of its function.
        let code = if is_exact { at.pc } else { at.pc.wrapping_sub(1) };
        if !(module.start..module.end).contains(&code) {
            module = Module::of(code).unwrap_or(Module::NONE);
        }
        let rule = if module.tables == 0 { Rule::Unknown } else { module.rule(code) };
        if rule == Rule::Unknown {
            // Its base is anywhere above.
            f(at.pc, at.sp + 1);
            return;
        }
        let Some((caller, _)) = at.up(rule, &read).filter(|&(_, base)| f(at.pc, base)) else { return };
        (at, is_exact) = (caller, rule == Rule::Signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_fit_a_word() {
        for rule in
            [Rule::Sp(16, 0), Rule::Bp((8 << 20) - 8, 3), Rule::Aligned(8), Rule::Signal, Rule::End, Rule::Unknown]
        {
            assert_eq!(unpack(pack(rule, 0xabcd)), (rule, 0xabcd));
        }
        assert_eq!([words(16), words(-8), words(12), words(8 << 20)], [Some(2), None, None, None]);
    }

    #[test]
    fn what_cannot_be_read_is_no_word_for_linux() {
        let word = 7usize;
        assert_eq!([peek((&raw const word).addr()), peek(8), peek(usize::MAX - 7)], [Some(7), None, None]);
        assert_eq!(read((&raw const word).addr()), Some(7));
    }

    #[test]
    fn a_walk_goes_on_to_the_first_frame_of_the_thread() {
        prime();
        for _ in 0..2 {
            let mut bases = Vec::new();
            let whole = walk(&mut |_, base| {
                bases.push(base);
                true
            });
            assert!(whole && bases.len() > 5 && bases.is_sorted(), "{bases:x?}");
        }
    }
}
