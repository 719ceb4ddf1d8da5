//! System calls that Linux denies: as a sandbox does, by a filter that nobody takes away.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// From here on, this thread's calls of `number` fail with `error`: those whose argument of this index has this
/// value, or all. For the child of a test.
pub fn deny(number: i64, argument: Option<(u8, u64)>, error: i32) {
    let value = |(index, value)| SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let rules = argument.map(|argument| vec![value(argument).and_then(|value| SeccompRule::new(vec![value]))]);
    let rules: Result<Vec<_>, _> = rules.unwrap_or_default().into_iter().collect();
    let denied = SeccompAction::Errno(error as u32);
    let arch = std::env::consts::ARCH.try_into().expect("an architecture that has filters");
    let rules = [(number, rules.expect("a condition"))].into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    apply_filter(&program).expect("this Linux has filters");
}
