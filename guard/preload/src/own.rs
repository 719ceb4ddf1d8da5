//! The C library's own `free`, `realloc` and `malloc_usable_size`: some callers come there past this library.
//!
//! - `__libc_free`, where a program has a `malloc` and a `free` of its own which stand on it;
//! - an address that was asked for in the C library itself, as Python's `ctypes.CDLL("libc.so.6").free`;
//! - a module that was loaded with RTLD_DEEPBIND, see dlopen(3).
//!
//! What they pass may be guarded: `strdup` or `posix_memalign` made it. The functions here take what is guarded.
//! Everything else is passed to the C library, never to the next allocator, which may have come that way itself.
//! Whoever asks for `__libc_free` by name gets the one here; for the others, entries of the C library's table of
//! symbols are changed in memory, once, before the program's first code. What is allocated by these ways is
//! not guarded.
//!
//! # Rules
//! - **O1** An entry is changed only in the C library that is in use, in pages that are readable and nothing else,
//!   where it is that of a function, and has at any time either value. Where anything is not as expected, it stays.
//! - **O2** What was found is known before the entry changes.
//!
//! Sources: "System V Application Binary Interface", Symbol Table and Dynamic Section; the GNU hash table as
//! ld.so reads it; dl_iterate_phdr(3).

use crate::family::{self, Free, Realloc, Usable};
use crate::next::{FREE, Next, REALLOC, USABLE};
use core::ffi::{CStr, c_int, c_void};
use core::mem::transmute_copy;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use libc::{Elf64_Phdr, Elf64_Sym, PF_R, PT_DYNAMIC, PT_LOAD, dl_phdr_info};

/// A function of the C library, by its address; 0 = not known, and the next allocator's has to do.
struct Own(AtomicUsize, &'static Next);

static OWN_FREE: Own = Own(AtomicUsize::new(0), &FREE);
static OWN_REALLOC: Own = Own(AtomicUsize::new(0), &REALLOC);
static OWN_USABLE: Own = Own(AtomicUsize::new(0), &USABLE);

impl Own {
    /// See [`Next::get`].
    ///
    /// # Safety
    /// As there.
    unsafe fn get<F: Copy>(&self) -> F {
        const { assert!(size_of::<F>() == size_of::<usize>()) };
        // SAFETY: the caller's promise; a function's address has the size of a word.
        unsafe {
            match self.0.load(Relaxed) {
                0 => self.1.get(),
                own => transmute_copy(&own),
            }
        }
    }
}

/// As `free`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_free(at: *mut u8) {
    if !family::is_next(at) {
        // SAFETY: the caller's promise.
        return unsafe { family::free(at) };
    }
    // SAFETY: the form is free's; the caller's promise.
    unsafe { OWN_FREE.get::<Free>()(at) }
}

/// As `realloc`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_realloc(at: *mut u8, size: usize) -> *mut u8 {
    if !family::is_next(at) {
        // SAFETY: the caller's promise.
        return unsafe { family::realloc(at, size) };
    }
    // SAFETY: the form is realloc's; the caller's promise.
    unsafe { OWN_REALLOC.get::<Realloc>()(at, size) }
}

/// # Safety
/// As for `reallocarray`.
unsafe extern "C" fn reallocarray(at: *mut u8, count: usize, size: usize) -> *mut u8 {
    match count.checked_mul(size) {
        // SAFETY: the caller's promise.
        Some(bytes) => unsafe { __libc_realloc(at, bytes) },
        None => family::fail(libc::ENOMEM),
    }
}

/// # Safety
/// As for `malloc_usable_size`.
unsafe extern "C" fn usable(at: *mut u8) -> usize {
    if !family::is_next(at) {
        // SAFETY: the caller's promise.
        return unsafe { family::malloc_usable_size(at) };
    }
    // SAFETY: the form is malloc_usable_size's; the caller's promise.
    unsafe { OWN_USABLE.get::<Usable>()(at) }
}

/// From now on who asks for them in the C library gets those of this file.
pub fn attend() {
    // SAFETY: the name is a C string; what is called takes what Linux's linker passes, and an address.
    unsafe { libc::dl_iterate_phdr(Some(each), libc::dlsym(libc::RTLD_DEFAULT, VERSION.as_ptr())) };
}

/// Its name, as all of glibc's ports have it but one; and what no other C library has.
const LIBRARY: &[u8] = b"/libc.so.6";
const VERSION: &CStr = c"gnu_get_libc_version";
/// A symbol whose value is a function's address. There are others whose value is one that chooses.
const FUNCTION: u8 = 2;

/// # Safety
/// For dl_iterate_phdr(3), with the address of what the C library alone has.
unsafe extern "C" fn each(module: *mut dl_phdr_info, _size: usize, version: *mut c_void) -> c_int {
    // SAFETY: the linker passes a record of a module, with a name that is a C string.
    let (module, name) = unsafe { (&*module, CStr::from_ptr((*module).dlpi_name)) };
    if !name.to_bytes().ends_with(LIBRARY) {
        return 0;
    }
    // SAFETY: as above; the module is loaded, and stays.
    let Some(table) = (unsafe { Table::of(module) }) else { return 0 };
    if table.part_with(version.addr()).is_some() {
        let (free, realloc) = (__libc_free as *const () as usize, __libc_realloc as *const () as usize);
        table.lead(c"free", free, Some(&OWN_FREE));
        table.lead(c"realloc", realloc, Some(&OWN_REALLOC));
        table.lead(c"malloc_usable_size", usable as *const () as usize, Some(&OWN_USABLE));
        table.lead(c"reallocarray", reallocarray as *const () as usize, None);
        [c"cfree", c"__libc_free"].into_iter().for_each(|name| table.lead(name, free, None));
        table.lead(c"__libc_realloc", realloc, None);
        return 1;
    }
    0
}

/// A module's symbols.
struct Table {
    base: usize,
    parts: &'static [Elf64_Phdr],
    symbols: *const Elf64_Sym,
    names: *const u8,
    hash: *const u32,
}

/// Entries of the dynamic section.
const SYMBOLS: usize = 6;
const NAMES: usize = 5;
const HASH: usize = 0x6fff_fef5;

impl Table {
    /// # Safety
    /// The module is loaded, and stays.
    unsafe fn of(module: &dl_phdr_info) -> Option<Table> {
        let base = module.dlpi_addr as usize;
        // SAFETY: the record is the linker's.
        let parts = unsafe { core::slice::from_raw_parts(module.dlpi_phdr, module.dlpi_phnum as usize) };
        let dynamic = base + parts.iter().find(|part| part.p_type == PT_DYNAMIC)?.p_vaddr as usize;
        // SAFETY: pairs of words, of which the last is clear.
        let value = |wanted| unsafe {
            let pairs = with_exposed_provenance::<[usize; 2]>(dynamic);
            let found = (0..).map(|n| *pairs.add(n)).take_while(|pair| pair[0] != 0).find(|pair| pair[0] == wanted);
            // The linker has added the base, where it may write.
            found.map(|[_, at]| if at < base { at + base } else { at })
        };
        let (symbols, names, hash) = (value(SYMBOLS)?, value(NAMES)?, value(HASH)?);
        let at = (with_exposed_provenance(symbols), with_exposed_provenance(names), with_exposed_provenance(hash));
        Some(Table { base, parts, symbols: at.0, names: at.1, hash: at.2 })
    }

    /// The entries of this name, each of a version, lead to `to`. O1, O2.
    fn lead(&self, name: &CStr, to: usize, was: Option<&Own>) {
        self.each(name, &mut |entry| {
            // SAFETY: the module's, and the value is a word.
            let value = unsafe { AtomicU64::from_ptr((&raw const (*entry).st_value).cast_mut()) };
            let found = value.load(Relaxed) as usize;
            let is_read_only = self.part_with(value.as_ptr().addr()).is_some_and(|part| part.p_flags == PF_R);
            // SAFETY: the module's.
            let kind = unsafe { (*entry).st_info } & 15;
            if found != 0 && kind == FUNCTION && is_read_only {
                was.into_iter().for_each(|was| was.0.store(self.base.wrapping_add(found), Relaxed));
                store(value, to.wrapping_sub(self.base) as u64);
            }
        });
    }

    /// What is loaded with the address `at`.
    fn part_with(&self, at: usize) -> Option<&Elf64_Phdr> {
        self.parts.iter().find(|part| {
            let start = self.base + part.p_vaddr as usize;
            part.p_type == PT_LOAD && (start..start + part.p_memsz as usize).contains(&at)
        })
    }

    fn each(&self, name: &CStr, f: &mut dyn FnMut(*const Elf64_Sym)) {
        let wanted = hash(name.to_bytes());
        // SAFETY: four words, a filter of double words, buckets, and a chain whose last word is odd.
        unsafe {
            let [buckets, first, filter] = [0, 1, 2].map(|n| *self.hash.add(n) as usize);
            let bucket = self.hash.add(4 + filter * 2);
            let chain = bucket.add(buckets);
            let mut n = *bucket.add(wanted as usize % buckets) as usize;
            while n >= first {
                let (link, entry) = (*chain.add(n - first), self.symbols.add(n));
                let is_it = (link ^ wanted) >> 1 == 0;
                if is_it && CStr::from_ptr(self.names.add((*entry).st_name as usize).cast()) == name {
                    f(entry);
                }
                n = if link & 1 == 1 { 0 } else { n + 1 };
            }
        }
    }
}

fn hash(name: &[u8]) -> u32 {
    name.iter().fold(5381, |hash: u32, &byte| hash.wrapping_mul(33).wrapping_add(byte.into()))
}

/// Stores into a page that may only be read.
fn store(word: &AtomicU64, value: u64) {
    // SAFETY: the page has what the module's file has, and may be written meanwhile as well.
    unsafe {
        let size = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        let page = word.as_ptr().cast::<u8>();
        let page = page.sub(page.addr() % size).cast();
        if libc::mprotect(page, size, libc::PROT_READ | libc::PROT_WRITE) == 0 {
            word.store(value, Relaxed);
            libc::mprotect(page, size, libc::PROT_READ);
        }
    }
}
