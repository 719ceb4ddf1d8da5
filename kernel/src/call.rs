//! A call of one of the traditional functions, as its entry hook sees it.
//!
//! Each function tells [`Host::entered`](crate::Host::entered) its name and its
//! arguments when it is entered, and [`Host::left`](crate::Host::left) when it ends.
//! What prints a chain of calls hears it from there and from nowhere else.

use crate::flags::{Pgprot, VmFlags};
use crate::gfp::GfpFlags;
use core::fmt;
use vmalloc::Caller;
use vmalloc::units::Node;

/// The value of an argument.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    /// A count or a size.
    Number(usize),
    /// An address.
    Address(usize),
    /// Allocation flags.
    Gfp(GfpFlags),
    /// A protection.
    Prot(Pgprot),
    /// Flags of a `vm_struct`.
    Flags(VmFlags),
    /// A node; `None` = any, which is -1.
    Node(Option<Node>),
    /// Who called first.
    Caller(Caller),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(n) => n.fmt(f),
            Value::Address(at) => write!(f, "{at:#x}"),
            Value::Gfp(gfp) => gfp.fmt(f),
            Value::Prot(prot) => prot.fmt(f),
            Value::Flags(flags) => flags.fmt(f),
            Value::Node(Some(node)) => node.0.fmt(f),
            Value::Node(None) => f.write_str("-1"),
            Value::Caller(caller) => write!(f, "{caller:?}"),
        }
    }
}

/// An argument, by its traditional name.
pub type Argument = (&'static str, Value);

/// A function that was entered, with its arguments.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Call<'a> {
    /// The function's traditional name.
    pub name: &'static str,
    /// Its arguments, in order.
    pub arguments: &'a [Argument],
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (n, (name, value)) in self.arguments.iter().enumerate() {
            write!(f, "{}{name}={value}", if n == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn a_call_reads_as_it_would_be_written() {
        let arguments = [
            ("size", Value::Number(12288)),
            ("gfp_mask", Value::Gfp(GfpFlags::KERNEL | GfpFlags::HIGHMEM)),
            ("node", Value::Node(None)),
            ("caller", Value::Caller(Caller::Return(0x77))),
        ];
        let call = Call { name: "__vmalloc_node", arguments: &arguments };
        let text = "__vmalloc_node(size=12288, gfp_mask=GFP_KERNEL|__GFP_HIGHMEM, node=-1, caller=0x77)";
        assert_eq!(call.to_string(), text);
        assert_eq!(Call { name: "f", arguments: &[] }.to_string(), "f()");
    }
}
