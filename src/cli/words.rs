//! Numbers in words.

use std::fmt;

/// `1 route`, `2 routes`, `2 addresses`.
pub(super) fn counted<N: TryInto<u64> + fmt::Display>(count: N, noun: &str) -> String {
    let text = format!("{count} {noun}");
    match (count.try_into(), noun.ends_with('s')) {
        (Ok(1), _) => text,
        (_, true) => text + "es",
        (_, false) => text + "s",
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_of_a_thing_is_singular() {
        let all = [counted(0, "route"), counted(1, "route"), counted(2_u64, "route"), counted(3, "address")];
        assert_eq!(all, ["0 routes", "1 route", "2 routes", "3 addresses"]);
    }
}
