//! Stacks of threads, each over a page that is never mapped, and a few of each CPU's kept.
//!
//! ```text
//!   alloc_thread_stack ─▶ kept here, for the node? ─ yes ─▶ cleared ──▶ the thread's
//!          ▲                         │ no                                  │
//!          │                         └──▶ a new one of the library's ──────┤
//!          └── kept by the CPU that frees ◀─ room? ── free_thread_stack ◀──┘
//!                                              └─ no ─▶ vfree
//! ```
//!
//! # Rules
//! - **ST1** A stack that is kept is in one place, a word that has its address and its node. Whoever
//!   takes the word out by a compare-exchange owns the stack: there is no lock, so an interrupt in
//!   the middle of either call may call the other.
//! - **ST2** A stack is kept if its frames are all of one node and nobody changed its pages'
//!   protection. All others go back at once.
//! - **ST3** What is kept goes back when memory or addresses are short: a
//!   [notifier](crate::Notifier) that calls [`Stacks::give_up`] does that.
//!
//! The leak detector forgets a stack while it is kept. A stack is cleared when it is taken and not
//! when it is freed, so the mark of how much it used can be read in between.
//!
//! Source: `alloc_thread_stack_node`, `free_thread_stack`, `free_vm_stack_cache`.

use crate::call::Value;
use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::memory::Place;
use crate::request::Request;
use crate::sync::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, breaks};
use crate::vfree::{Pointer, pointer};
use core::fmt;
use core::ptr::NonNull;
use vmalloc::area::{Req, What};
use vmalloc::error::Shortage;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{MAX_CPUS, Node, PAGE_SIZE};
use vmalloc::{Caller, Gfp, Info, Kind};

/// Stacks that a CPU keeps (`NR_CACHED_STACKS`).
pub const NR_CACHED_STACKS: usize = 2;
/// What a stack is asked for with (`THREADINFO_GFP`).
const STACK_GFP: GfpFlags = GfpFlags::KERNEL.union(GfpFlags::ZERO);
const WORD: usize = size_of::<usize>();

/// Stacks of one size. See the [module](self).
pub struct Stacks<'k, 'v, M: Machine, H: Host> {
    kernel: &'k Kernel<'v, M, H>,
    pages: usize,
    kept: [[AtomicUsize; NR_CACHED_STACKS]; MAX_CPUS],
    deepest: AtomicUsize,
}

/// A word that keeps a stack: its address, and its node where an address of a page has zeroes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kept(usize);

impl Kept {
    const NOTHING: Kept = Kept(0);

    fn new(at: usize, node: Node) -> Kept {
        Kept(at | node.0 as usize)
    }

    fn at(self) -> usize {
        self.0 & !(PAGE_SIZE - 1)
    }

    fn is_for(self, node: Option<Node>) -> bool {
        self != Kept::NOTHING && node.is_none_or(|node| self.0 & (PAGE_SIZE - 1) == node.0 as usize)
    }
}

/// Puts `new` where `old` is; whether it was there.
fn exchange(word: &AtomicUsize, old: Kept, new: Kept) -> bool {
    if breaks!(KeptTakenUnseen) {
        word.store(new.0, Relaxed);
        return true;
    }
    word.compare_exchange(old.0, new.0, AcqRel, Relaxed).is_ok()
}

impl<'k, 'v, M: Machine, H: Host> Stacks<'k, 'v, M, H> {
    /// Stacks of `pages` pages each (`THREAD_SIZE`). Touches nothing.
    pub const fn new(kernel: &'k Kernel<'v, M, H>, pages: usize) -> Self {
        let kept = [const { [const { AtomicUsize::new(0) }; NR_CACHED_STACKS] }; MAX_CPUS];
        Stacks { kernel, pages, kept, deepest: AtomicUsize::new(0) }
    }

    /// The bytes of a stack.
    pub const fn bytes(&self) -> usize {
        self.pages.saturating_mul(PAGE_SIZE)
    }

    /// A cleared stack with frames of `node` if possible, or of any: the lowest address of it. One
    /// that this CPU keeps is taken only if all its frames are of that node.
    ///
    /// # Errors
    /// [`Error::WrongContext`] in an interrupt, and those of [`Kernel::vmalloc`], which are told alike.
    /// Nothing has changed then.
    ///
    /// # Cost
    /// O(pages), no lock where one is kept. Source: `alloc_thread_stack_node`.
    #[track_caller]
    pub fn alloc_thread_stack(&self, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let _call = self.kernel.enter("alloc_thread_stack_node", &[("node", Value::Node(node))]);
        self.kernel.not_in_interrupt()?;
        let gfp_mask = self.kernel.host.scope().apply(STACK_GFP);
        let request = Request { gfp_mask, node, ..self.kernel.request(self.bytes()) };
        let stack = self.reuse(node).map_or_else(|| self.create(&request), Ok)?;
        self.kernel.tell_kmemleak(stack, &request);
        Ok(stack)
    }

    /// A stack that this CPU keeps, cleared. One that nothing shows, and so nobody can clear, is freed.
    fn reuse(&self, node: Option<Node>) -> Option<NonNull<u8>> {
        while let Some(at) = self.take(node) {
            match self.kernel.wipe(Place::Area(at), self.bytes()) {
                Ok(()) => return pointer(at),
                Err(_) => _ = self.kernel.free_area(at, |_| true, Caller::here()),
            }
        }
        None
    }

    fn create(&self, request: &Request) -> Result<NonNull<u8>, Error> {
        let (kernel, gfp) = (self.kernel, request.gfp_mask | GfpFlags::HIGHMEM);
        kernel.told_size(request)?;
        let req = Req::stack(self.pages).gfp(gfp.library() | Gfp::NOWARN).caller(request.caller);
        let made = kernel.vm.alloc(request.node.map_or(req.clone(), |node| req.node(node)));
        let stack = made.inspect_err(|error| kernel.tell_failure(request, error, false))?;
        kernel.forget_left_over(stack.addr().get()).inspect_err(|_| kernel.undo(stack))?;
        Ok(stack)
    }

    /// Gives up a stack of this size: this CPU keeps it, or it is freed. From any context, as
    /// [`Kernel::vfree`] is.
    ///
    /// # Errors
    /// [`Error::DoubleFree`] for one that is kept; [`Error::NoArea`] for what is no stack of this
    /// size; those of [`Kernel::vfree`]. Nothing has changed then.
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Cost
    /// O(bytes that it did not use), and a look at what all CPUs keep. Source: `free_thread_stack`.
    #[track_caller]
    pub unsafe fn free_thread_stack(&self, stack: NonNull<u8>) -> Result<(), Error> {
        let at = stack.addr().get();
        let _call = self.kernel.enter("free_thread_stack", &[("stack", Value::Address(at))]);
        let info = self.stack_at(at)?;
        if self.words().any(|word| Kept(word.load(Acquire)).at() == at) {
            return Err(Error::DoubleFree(at));
        }
        // Where nothing shows its bytes there is no mark.
        let used = self.bytes_used(at).unwrap_or(0);
        if !self.keep(&info) {
            self.kernel.free_area(at, |_| true, Caller::here())?;
        }
        self.deepest.fetch_max(used, Relaxed);
        Ok(())
    }

    /// The bytes that a stack has used at most: from its lowest word that is not zero up to its top. A
    /// thread that still runs on it may write meanwhile.
    ///
    /// # Errors
    /// [`Error::NoArea`] for what is no stack of this size; [`Error::NotReachable`] where nothing shows
    /// its bytes.
    ///
    /// # Safety
    /// Y2: the caller holds the stack.
    ///
    /// # Cost
    /// O(bytes that were not used).
    pub unsafe fn used(&self, stack: NonNull<u8>) -> Result<usize, Error> {
        let at = stack.addr().get();
        self.stack_at(at)?;
        self.bytes_used(at)
    }

    /// The most bytes that any stack had used when it was freed.
    pub fn deepest(&self) -> usize {
        self.deepest.load(Relaxed)
    }

    /// Frees what `cpu` keeps, for it goes offline; how many that were. Not from an NMI.
    ///
    /// # Source
    /// `free_vm_stack_cache`.
    pub fn flush_cpu(&self, cpu: u32) -> usize {
        let kept = self.kept.get(cpu as usize).into_iter().flatten();
        kept.filter(|word| self.give_back(word)).count()
    }

    /// Frees what all CPUs keep; how many that were. Not from an NMI.
    pub fn flush(&self) -> usize {
        (0..self.kernel.machine().cpus()).map(|cpu| self.flush_cpu(cpu)).sum()
    }

    /// For a chain of [notifiers](crate::Notifiers): frees what all CPUs keep, whatever is short, and
    /// returns the pages of that. The library flushes before it tries again.
    ///
    /// # Cost
    /// O(stacks that are kept). Source: a shrinker's scan.
    pub fn give_up(&self, _short: Shortage) -> usize {
        self.flush() * self.pages
    }

    fn give_back(&self, word: &AtomicUsize) -> bool {
        let kept = Kept(word.load(Acquire));
        let taken = kept != Kept::NOTHING && exchange(word, kept, Kept::NOTHING);
        taken && self.kernel.free_area(kept.at(), |_| true, Caller::here()).is_ok()
    }

    /// The live stack of this size that starts at `at`.
    fn stack_at(&self, at: usize) -> Result<Info, Error> {
        let is_ours = |info: &Info| info.kind == Kind::Stack && info.start.0 == at && info.pages == self.pages;
        self.kernel.vm.find(at).filter(is_ours).ok_or(Error::NoArea(at))
    }

    /// Takes a stack that this CPU keeps for `node` (ST1).
    fn take(&self, node: Option<Node>) -> Option<usize> {
        self.here().iter().find_map(|word| {
            let kept = Kept(word.load(Acquire));
            (kept.is_for(node) && exchange(word, kept, Kept::NOTHING)).then_some(kept.at())
        })
    }

    /// This CPU keeps a stack, if it has room for one and may (ST2).
    fn keep(&self, info: &Info) -> bool {
        let (kernel, at) = (self.kernel, info.start.0);
        let is_full = || self.here().iter().all(|word| word.load(Relaxed) != 0);
        let is_protected = || kernel.has_records() && kernel.record_of(info).is_some();
        let Some(node) = self.node_of(at).filter(|_| !is_full() && !is_protected()) else { return false };
        // First: who takes it tracks it.
        kernel.host.untracked(at);
        kernel.kmemleak_free(at);
        self.here().iter().any(|word| exchange(word, Kept::NOTHING, Kept::new(at, node)))
    }

    /// The node of all frames of a stack, if it is one.
    fn node_of(&self, at: usize) -> Option<Node> {
        let frames = self.kernel.machine().frames();
        let node = |page| self.kernel.vm.frame_at(at + page * PAGE_SIZE).map(|frame| frames.node_of(frame));
        let first = node(0)?;
        (1..self.pages).all(|page| node(page) == Some(first)).then_some(first)
    }

    /// The words of the CPU that this is at the moment.
    fn here(&self) -> &[AtomicUsize] {
        let machine = self.kernel.machine();
        let was = machine.pin();
        let cpu = was.cpu as usize;
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(was) };
        self.kept.get(cpu).map_or(&[], |words| words)
    }

    fn words(&self) -> impl Iterator<Item = &AtomicUsize> {
        self.kept.iter().take(self.kernel.machine().cpus() as usize).flatten()
    }

    fn bytes_used(&self, at: usize) -> Result<usize, Error> {
        for page in 0..self.pages {
            let here = at + page * PAGE_SIZE;
            let frame = self.kernel.vm.frame_at(here).ok_or(Error::NoArea(here))?;
            if let Some(unused) = self.kernel.with_bytes(frame, lowest_use)? {
                return Ok(self.bytes() - page * PAGE_SIZE - unused);
            }
        }
        Ok(0)
    }
}

/// The offset of the lowest word of a page that is not zero.
fn lowest_use(page: NonNull<u8>) -> Option<usize> {
    let word = |n: usize| page.cast::<usize>().as_ptr().wrapping_add(n);
    // SAFETY: Y2: the page is a stack's that the caller holds; others may write to it.
    (0..PAGE_SIZE / WORD).find(|&n| unsafe { word(n).read_volatile() } != 0).map(|n| n * WORD)
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// For a handler of page faults: if `at` is in the page below a stack, tells the log so, and
    /// returns the stack. `what` is the stack's name in the message, "TASK" say, or empty as
    /// older kernels have it.
    ///
    /// # Cost
    /// O(1), no lock. From any context. Source: `handle_stack_overflow`:
    /// `BUG: <what> stack guard page was hit at %p (stack is %p..%p)`.
    pub fn stack_guard_hit(&self, at: usize, what: &str) -> Option<Info> {
        let What::Guard { above: Some(stack), short, .. } = self.vm.whatis(at) else { return None };
        if stack.kind != Kind::Stack || short > PAGE_SIZE {
            return None;
        }
        let (start, end) = (Pointer(stack.start.0), Pointer(stack.range().end().0));
        let (space, at) = (if what.is_empty() { "" } else { " " }, Pointer(at));
        let line = format_args!("BUG: {what}{space}stack guard page was hit at {at} (stack is {start}..{end})");
        self.printk(Kern::Crit, line);
        Some(stack)
    }
}

impl<M: Machine, H: Host> Drop for Stacks<'_, '_, M, H> {
    fn drop(&mut self) {
        self.flush();
    }
}

impl<M: Machine, H: Host> fmt::Debug for Stacks<'_, '_, M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stacks").field("pages", &self.pages).finish_non_exhaustive()
    }
}
