//! The memory devices, and files for whoever in the image wants one.
//!
//! ```text
//! let mut file = devices::open(0, Access::WriteOnly)?;     // trims, as scullv does
//! devices::write_all(&mut file, b"text")?;
//! let mut file = devices::open(0, Access::ReadOnly)?;
//! let count = file.read(&mut Output(&mut buffer), 0, buffer.len())?;
//! ```
//!
//! They are made when they are first wanted: who does not use them does not pay
//! for them.

use crate::machine::Pc;
use crate::vm;
use spin::{Once, RwLock};
use vmalloc_scullv::{Access, Error, Input, Parameters, Scullv};

/// The devices of this machine.
pub type Devices = Scullv<'static, Pc, RwLock<()>>;
/// An open device of this machine.
pub type File = vmalloc_scullv::File<'static, 'static, Pc, RwLock<()>>;

static DEVICES: Once<Devices> = Once::new();

/// The devices, four of them.
pub fn all() -> Result<&'static Devices, Error> {
    DEVICES.try_call_once(|| Scullv::new(vm(), Parameters::default()))
}

/// Opens device `index`.
pub fn open(index: usize, access: Access) -> Result<File, Error> {
    all()?.open(index, access)
}

/// Writes all of `bytes` where `file` is, quantum by quantum.
pub fn write_all(file: &mut File, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        let done = file.write(&mut Input(bytes), 0, bytes.len())?;
        bytes = &bytes[done..];
    }
    Ok(())
}
