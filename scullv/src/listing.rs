//! The listing: `/proc/scullvmem`.
//!
//! For each device an empty line, a line for the device, a line for each item,
//! and for the last item, to save space, one for each quantum:
//!
//! ```text
//!
//! Device 0: qset 500, order 4, sz 1535135
//!   item at ffff888003a41040, qset at ffff888003b72000
//!        0:ffffc90000210000
//!        1:ffffc90000221000
//! ```
//!
//! Pointers have all their digits, as `%p` had when the device was written, and
//! the first item is always there, as it was part of the device. Sources:
//! scullv's own format; `% 4i` and `%8p` of the kernel's printf.

use crate::driver::Scullv;
use crate::store::Store;
use core::fmt;
use vmalloc::lock_api::RawRwLock;
use vmalloc::machine::Addressable;

/// `%p`.
struct Pointer(usize);

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$x}", self.0, width = 2 * size_of::<usize>())
    }
}

/// `% 4i` of a number that is not negative: a space for its sign, then at
/// least so wide.
struct Number(usize);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {:3}", self.0)
    }
}

impl<M: Addressable, R: RawRwLock> Scullv<'_, M, R> {
    /// Prints the listing.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn list(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut devices = self.devices().iter().enumerate();
        devices.try_for_each(|(index, device)| device.with_store(|store| list_device(out, index, store)))
    }
}

fn list_device<M: Addressable>(out: &mut dyn fmt::Write, index: usize, store: &Store<'_, M>) -> fmt::Result {
    let (geometry, size) = (store.geometry(), store.size());
    writeln!(out, "\nDevice {index}: qset {}, order {}, sz {size}", geometry.qset(), geometry.order())?;
    let mut items = store.items().peekable();
    while let Some(item) = items.next() {
        writeln!(out, "  item at {}, qset at {}", Pointer(item.at), Pointer(item.set))?;
        if items.peek().is_some() {
            continue;
        }
        for (slot, quantum) in item.quanta.iter().enumerate().filter(|(_, quantum)| !quantum.is_none()) {
            writeln!(out, "    {}:{}", Number(slot), Pointer(store.address(*quantum)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::format;

    #[test]
    fn numbers_and_pointers_look_as_printf_makes_them() {
        let numbers = [0, 7, 42, 499, 1000, 12345].map(|n| format!("{}", Number(n)));
        assert_eq!(numbers, ["   0", "   7", "  42", " 499", " 1000", " 12345"]);
        assert_eq!(format!("{}", Pointer(0xab)).len(), 2 * size_of::<usize>());
        assert!(format!("{}", Pointer(0xab)).ends_with("00ab"));
    }
}
