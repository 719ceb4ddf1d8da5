//! Sheets: the record of what lies in a page of objects, or in a block of frames.

use super::class::{CLASSES, MOST, objects, size_of_class};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use vmalloc::units::{PAGE_SIZE, Pfn};

const WORDS: usize = MOST / 64;

/// What lies from `base` on.
pub(crate) struct Sheet {
    /// Where the direct mapping shows it.
    pub(super) base: usize,
    /// Its first frame.
    pub(super) first: Pfn,
    /// log2 of its frames.
    pub(super) order: u8,
    /// The class of its objects; [`CLASSES`] = a block that is one object.
    pub(super) class: u8,
    /// Which lists it belongs to.
    pub(super) list: u8,
    /// The node of its frames.
    pub(super) node: u8,
    /// Objects that are out.
    pub(super) used: u16,
    listed: bool,
    out: [u64; WORDS],
    previous: *mut Sheet,
    next: *mut Sheet,
}

impl Sheet {
    /// A page of objects of `class`, none of which is out.
    pub(super) fn of_objects(base: usize, first: Pfn, class: usize, list: usize, node: u8) -> Sheet {
        let null = core::ptr::null_mut();
        let (class, list) = (class as u8, list as u8);
        let out = [0; WORDS];
        Sheet { base, first, order: 0, class, list, node, used: 0, listed: false, out, previous: null, next: null }
    }

    /// A block of 2^`order` frames that is one object, and out.
    pub(super) fn of_block(base: usize, first: Pfn, order: u8) -> Sheet {
        Sheet { order, used: 1, ..Sheet::of_objects(base, first, CLASSES, 0, 0) }
    }

    /// Whether it is a block that is one object.
    pub(super) fn is_block(&self) -> bool {
        self.class as usize == CLASSES
    }

    /// Whether it has an object that is not out.
    pub(super) fn has_room(&self) -> bool {
        !self.is_block() && (self.used as usize) < objects(self.class as usize)
    }

    /// Bytes of its memory.
    pub(super) fn bytes(&self) -> usize {
        PAGE_SIZE << self.order
    }

    /// Bytes of one of its objects.
    pub(super) fn object_bytes(&self) -> usize {
        if self.is_block() { self.bytes() } else { size_of_class(self.class as usize) }
    }

    /// Whether `at` lies in its memory.
    pub(super) fn holds(&self, at: usize) -> bool {
        at.wrapping_sub(self.base) < self.bytes()
    }

    /// The object that holds `at`: which one it is, and where it starts. `None`
    /// behind the last.
    pub(super) fn object_at(&self, at: usize) -> Option<(usize, usize)> {
        let n = (at - self.base) / self.object_bytes();
        let most = if self.is_block() { 1 } else { objects(self.class as usize) };
        (n < most).then_some((n, self.base + n * self.object_bytes()))
    }

    /// Whether object `n` is out (J5).
    pub(super) fn is_out(&self, n: usize) -> bool {
        self.is_block() || self.out[n / 64] >> (n % 64) & 1 != 0
    }

    /// The lowest object that is not out.
    fn lowest(&self) -> Option<usize> {
        let word = self.out.iter().position(|&word| word != u64::MAX)?;
        let n = word * 64 + self.out[word].trailing_ones() as usize;
        (n < objects(self.class as usize)).then_some(n)
    }

    /// The address of the object that is taken next.
    pub(super) fn next_object(&self) -> Option<usize> {
        Some(self.base + self.lowest()? * self.object_bytes())
    }

    /// Takes the lowest object that is not out.
    pub(super) fn take(&mut self) -> Option<usize> {
        let n = self.lowest()?;
        self.out[n / 64] |= 1 << (n % 64);
        self.used += 1;
        Some(self.base + n * self.object_bytes())
    }

    /// Object `n` comes back.
    pub(super) fn put(&mut self, n: usize) {
        self.out[n / 64] &= !(1 << (n % 64));
        self.used -= 1;
    }
}

/// A sheet in the slab's frames, for whoever holds the slab's lock.
#[derive(Clone, Copy)]
pub(super) struct SheetRef(NonNull<Sheet>);

impl SheetRef {
    /// # Safety
    /// - J6. The record is a sheet of the slab whose lock the caller holds, as long as
    ///   this is used.
    pub(super) unsafe fn new(record: NonNull<Sheet>) -> SheetRef {
        SheetRef(record)
    }

    pub(super) fn record(self) -> NonNull<Sheet> {
        self.0
    }

    /// Whether another one follows in its list.
    pub(super) fn has_next(self) -> bool {
        !self.next.is_null()
    }

    /// It is in a list now, between these two.
    pub(super) fn set_links(mut self, previous: *mut Sheet, next: *mut Sheet) {
        (self.previous, self.next, self.listed) = (previous, next, true);
        // SAFETY: J6: what a list names is a sheet.
        if let Some(next) = NonNull::new(next).map(|next| unsafe { SheetRef::new(next) }) {
            next.follow(self.0.as_ptr());
        }
    }

    fn follow(mut self, previous: *mut Sheet) {
        self.previous = previous;
    }

    fn lead(mut self, next: *mut Sheet) {
        self.next = next;
    }

    /// It leaves the list of `head`, if it is in it.
    pub(super) fn unlink_from(mut self, head: &mut *mut Sheet) {
        if !core::mem::replace(&mut self.listed, false) {
            return;
        }
        let (previous, next) = (NonNull::new(self.previous), NonNull::new(self.next));
        match previous {
            // SAFETY: J6: what a list names is a sheet.
            Some(previous) => unsafe { SheetRef::new(previous) }.lead(self.next),
            None => *head = self.next,
        }
        // SAFETY: J6: as above.
        if let Some(next) = next.map(|next| unsafe { SheetRef::new(next) }) {
            next.follow(self.previous);
        }
    }
}

impl Deref for SheetRef {
    type Target = Sheet;

    fn deref(&self) -> &Sheet {
        // SAFETY: J6.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for SheetRef {
    fn deref_mut(&mut self) -> &mut Sheet {
        // SAFETY: J6, and no other reference lasts beyond an expression.
        unsafe { self.0.as_mut() }
    }
}
