//! Objects: `kmalloc` and its siblings.

use super::class::class_of;
use super::sheet::Sheet;
use super::{Slab, list_of};
use crate::call::Value;
use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::sync::breaks;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use vmalloc::machine::Machine;
use vmalloc::machine::frames::{Frames, MAX_ORDER};
use vmalloc::units::{Node, PAGE_SHIFT, PAGE_SIZE};

/// What `kmalloc` returns for no bytes: nobody can use it, and `kfree` takes it.
pub const ZERO_SIZE_PTR: NonNull<u8> = match NonNull::new(with_exposed_provenance_mut(16)) {
    Some(at) => at,
    None => NonNull::dangling(),
};

/// The most bytes of an object: a block of the largest order.
pub(super) const LARGEST: usize = PAGE_SIZE << MAX_ORDER;

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Allocates `size` physically adjacent bytes on the direct mapping. No bytes are
    /// [`ZERO_SIZE_PTR`]. An object of 2ⁿ bytes is aligned to them, up to a page.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above the largest block (4 MiB); [`Error::Alloc`] where
    /// frames ran out. Nothing has changed then.
    ///
    /// # Cost
    /// The slab's lock, and a search of up to 8 words; one page of 64 bytes in 64 asks
    /// for a frame. Source: `kmalloc`.
    pub fn kmalloc(&self, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("kmalloc", &[("size", Value::Number(size)), ("flags", Value::Gfp(gfp))]);
        self.object(size, gfp, None)
    }

    /// As [`Kernel::kmalloc`], of the memory of `node` first.
    ///
    /// # Errors
    /// As there, and [`AllocError::BadNode`](vmalloc::AllocError::BadNode).
    pub fn kmalloc_node(&self, size: usize, gfp: GfpFlags, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let arguments = [("size", Value::Number(size)), ("flags", Value::Gfp(gfp)), ("node", Value::Node(node))];
        let _call = self.enter("kmalloc_node", &arguments);
        self.object(size, gfp, node)
    }

    /// As [`Kernel::kmalloc`], cleared.
    ///
    /// # Errors
    /// As there.
    pub fn kzalloc(&self, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        self.object(size, gfp | GfpFlags::ZERO, None)
    }

    /// `count` objects of `size` bytes, side by side.
    ///
    /// # Errors
    /// [`Error::Overflow`], and those of [`Kernel::kmalloc`].
    pub fn kmalloc_array(&self, count: usize, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        self.object(product(count, size)?, gfp, None)
    }

    /// As [`Kernel::kmalloc_array`], cleared.
    ///
    /// # Errors
    /// As there.
    pub fn kcalloc(&self, count: usize, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        self.object(product(count, size)?, gfp | GfpFlags::ZERO, None)
    }

    /// An object of `size` bytes, without a word to the hooks.
    pub(crate) fn object(&self, size: usize, gfp: GfpFlags, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        self.check_node(node)?;
        let gfp = self.without_highmem(gfp);
        let at = match class_of(size) {
            _ if size == 0 => return Ok(ZERO_SIZE_PTR),
            Some(class) => self.small(class, gfp, node)?,
            None => self.block(order_of(size)?, gfp, node)?,
        };
        if gfp.contains(GfpFlags::ZERO) {
            // All of it, so that it may grow in place and still be clear.
            let bytes = self.ksize(at.as_ptr())?;
            // SAFETY: J5: the object is the caller's from now on, and has as many bytes.
            unsafe { at.as_ptr().write_bytes(0, bytes) };
        }
        if let Some(leaks) = self.leaks {
            self.track_slab(leaks, at.addr().get(), self.ksize(at.as_ptr())?);
        }
        Ok(at)
    }

    /// The slab's memory is on the direct mapping: the flag is taken off, with a
    /// warning, as the traditional slab does.
    fn without_highmem(&self, gfp: GfpFlags) -> GfpFlags {
        let fixed = gfp.difference(GfpFlags::HIGHMEM);
        if fixed != gfp {
            let line =
                format_args!("Unexpected gfp: 0x2 (__GFP_HIGHMEM). Fixing up to gfp: {:#x} ({fixed})", fixed.bits());
            self.printk(Kern::Warning, line);
        }
        fixed
    }

    /// An object of a class.
    fn small(&self, class: usize, gfp: GfpFlags, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let list = list_of(gfp.library().zone());
        let home = node.unwrap_or_else(|| self.home());
        loop {
            let broken = breaks!(TakenInTwo);
            let seen = if broken { self.locked(&self.slab, |slab| slab.next(home, list, class))? } else { None };
            if let Some(at) = self.locked(&self.slab, |slab| slab.take(home, list, class))? {
                return Ok(seen.unwrap_or(at));
            }
            self.grow(class, gfp, (node, home))?;
        }
    }

    /// One more page of objects.
    fn grow(&self, class: usize, gfp: GfpFlags, (node, home): (Option<Node>, Node)) -> Result<(), Error> {
        let (list, quiet) = (list_of(gfp.library().zone()), gfp.library().difference(vmalloc::Gfp::ZERO));
        let frame = self.vm.alloc_frame(quiet, node)?;
        let base = self.machine().virt(frame).as_ptr().expose_provenance();
        // Listed where it is looked for, whatever node the frame is of at last.
        let sheet = Sheet::of_objects(base, frame, class, list, home.0);
        let added = self.stocked(&self.slab, (base, gfp), |slab| slab.add(self.machine(), sheet));
        added.inspect_err(|_| self.give_frame(frame))
    }

    /// The node of the calling CPU.
    pub(crate) fn home(&self) -> Node {
        let machine = self.machine();
        let was = machine.pin();
        let node = machine.node_of(was.cpu);
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(was) };
        node
    }
}

impl Slab {
    /// The object of the class that is taken next.
    fn next(&self, node: Node, list: usize, class: usize) -> Option<NonNull<u8>> {
        let at = self.first(node.0 as usize, list, class)?.next_object()?;
        NonNull::new(with_exposed_provenance_mut(at))
    }

    /// Takes an object of the class.
    fn take(&mut self, node: Node, list: usize, class: usize) -> Option<NonNull<u8>> {
        let mut sheet = self.first(node.0 as usize, list, class)?;
        let at = sheet.take();
        if !sheet.has_room() {
            self.unlink(sheet);
        }
        NonNull::new(with_exposed_provenance_mut(at?))
    }
}

/// The bytes of `count` objects.
pub(crate) fn product(count: usize, size: usize) -> Result<usize, Error> {
    count.checked_mul(size).ok_or(Error::Overflow { count, size })
}

/// The order of the smallest block that holds `size` bytes.
fn order_of(size: usize) -> Result<u8, Error> {
    if size > LARGEST {
        return Err(Error::TooLarge { bytes: size, limit: LARGEST });
    }
    let pages = size.div_ceil(PAGE_SIZE).next_power_of_two();
    debug_assert!(pages << PAGE_SHIFT <= LARGEST);
    Ok(pages.trailing_zeros() as u8)
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Whether there is such a node.
    pub(super) fn check_node(&self, node: Option<Node>) -> Result<(), Error> {
        let nodes = self.machine().frames().nodes();
        match node {
            Some(node) if node.0 as usize >= nodes => Err(vmalloc::AllocError::BadNode { node, nodes }.into()),
            _ => Ok(()),
        }
    }
}
