//! Names and numbers of signals, as kill(1) takes and prints them.

/// Signals 1..=31 of Linux on x86-64, in order (signal(7)).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const ALIASES: [(&str, u8); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];
/// First real-time signal that programs use (two are taken by the C library).
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

pub(crate) const SIGTERM: u8 = 15;

/// The number of a signal given as a name (any case, with or without `SIG`) or a number; 0 is none.
pub(crate) fn parse(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse::<u8>() {
        return (number <= RTMAX).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return u8::try_from(index + 1).ok();
    }
    if let Some((_, number)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(*number);
    }
    parse_realtime(name)
}

fn parse_realtime(name: &str) -> Option<u8> {
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        RTMIN.checked_add(offset)?
    } else {
        let offset = name.strip_prefix("RTMAX")?;
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('-')?.parse().ok()? };
        RTMAX.checked_sub(offset)?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The name of a signal, without `SIG`.
pub(crate) fn name(number: u8) -> Option<String> {
    match number {
        1..=31 => Some(NAMES[usize::from(number) - 1].to_owned()),
        RTMIN => Some("RTMIN".to_owned()),
        RTMAX => Some("RTMAX".to_owned()),
        35..=63 => Some(format!("RTMIN+{}", number - RTMIN)),
        _ => None,
    }
}

/// Every name, as `kill -l` lists them.
pub(crate) fn all_names() -> Vec<String> {
    (1..=RTMAX).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for number in 1..=RTMAX {
            if let Some(name) = name(number) {
                assert_eq!(parse(&name), Some(number), "{name}");
                assert_eq!(parse(&format!("sig{name}")), Some(number), "{name}");
            }
        }
        assert_eq!(parse("KILL"), Some(9));
        assert_eq!(parse("RTMAX-1"), Some(63));
        assert_eq!(parse("0"), Some(0));
        for wrong in ["65", "SIGNONE", "", "RTMIN+31", "RTMIN-1", "-9"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
