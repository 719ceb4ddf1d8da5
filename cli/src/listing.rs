//! Listings in the form of `/proc/vmallocinfo`, of any kernel since 2.6, as people paste them.
//!
//! ```text
//!   0xffffc90000040000-0xffffc90000045000   20480 kernel_clone+0xc2/0x430 pages=4 vmalloc N0=4
//!   0xffffc90000311000-0xffffc90000313000    8192 z_erofs_init+0x6/0x21 [erofs] vmap
//!   0xffffc90001000000-0xffffc90001100000 1048576 vm_map_ram
//!   0xffffc90000459000-0xffffc9000045c000   12288 unpurged vm_area
//! ```
//!
//! ```text
//!   line      what a line of the text is        area      an area, word by word
//!   reader    the areas of a file               compare   listings of two machines
//! ```

pub mod area;
pub mod compare;
mod line;
pub mod reader;
#[cfg(test)]
pub mod tests;

use crate::trace::error::TraceError;
use crate::trace::source;
pub use compare::{Comparison, Entry, compare};
use reader::Areas;
use std::io::Read;
use std::path::Path;

/// Reads what of the listing at `path`, plain or compressed, is compared; `-` is stdin.
pub fn load(path: &Path) -> Result<Vec<Entry>, TraceError> {
    let (name, file) = source::open(path)?;
    read(&name, file)
}

/// Reads what of the listing `from`, which errors call `name`, is compared.
pub fn read(name: &str, from: impl Read) -> Result<Vec<Entry>, TraceError> {
    let areas = Areas::new(name, from)?;
    areas.filter_map(|area| area.map(|area| Entry::of(&area)).transpose()).collect()
}
