//! `dunix kill`: signals to processes of the fabric, with the manners of kill(1).

use super::{Failure, find_fabric, runtime, signals};
use crate::{
    admin::client::{self, ClientError},
    cli::KillArgs,
};
use dunix_admin_api::KillTarget;
use dunix_ids::Pid;
use std::io::Write;

/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

/// Sends the signal to every target; all are tried, and any failure fails the command.
pub fn run(fabric: Option<&str>, args: &KillArgs) -> Result<(), Failure> {
    if let Some(what) = &args.list {
        return list(what.as_deref());
    }
    let (signal, targets) = parse(args)?;
    let fabric = find_fabric(fabric)?;
    runtime()?.block_on(async {
        let mut failed = false;
        for (text, target) in targets {
            match client::kill(&fabric, target, signal).await {
                Ok(()) => {}
                Err(ClientError::Refused(error)) => {
                    eprintln!("dunix: kill {text}: {}", error.message);
                    failed = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if failed { Err(Failure::failed("")) } else { Ok(()) }
    })
}

/// A target as the user wrote it, and what it means.
type Target<'a> = (&'a str, KillTarget);

fn parse(args: &KillArgs) -> Result<(u8, Vec<Target<'_>>), Failure> {
    let mut texts: Vec<&str> = args.targets.iter().map(String::as_str).collect();
    let mut signal = match &args.signal {
        Some(text) => Some(parse_signal(text)?),
        None => None,
    };
    // `kill -9 4711`: the first argument is a signal, unless one was named by -s.
    if signal.is_none()
        && texts.len() > 1
        && let Some(text) = texts[0].strip_prefix('-')
    {
        signal = Some(parse_signal(text)?);
        texts.remove(0);
    }
    if texts.first() == Some(&"--") {
        texts.remove(0);
    }
    if texts.is_empty() {
        return Err(usage("no PID is given".to_owned()));
    }
    let targets = texts.into_iter().map(|text| Ok((text, parse_target(text)?)));
    Ok((signal.unwrap_or(signals::SIGTERM), targets.collect::<Result<_, Failure>>()?))
}

fn parse_signal(text: &str) -> Result<u8, Failure> {
    signals::parse(text)
        .ok_or_else(|| usage(format!("unknown signal {text:?}; dunix kill -l lists them")))
}

fn parse_target(text: &str) -> Result<KillTarget, Failure> {
    let (digits, is_group) = match text.strip_prefix('-') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    match digits.parse().ok().and_then(Pid::new) {
        Some(pid) if is_group => Ok(KillTarget::Group(pid)),
        Some(pid) => Ok(KillTarget::Process(pid)),
        None => Err(usage(format!("{text:?} is no PID"))),
    }
}

fn usage(message: String) -> Failure {
    Failure { message: format!("kill: {message}"), status: EXIT_USAGE }
}

fn list(what: Option<&str>) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    let Some(what) = what else {
        writeln!(stdout, "{}", signals::all_names().join(" "))?;
        return Ok(());
    };
    // A number may be an exit status, as in kill -l $?.
    let of_status = |number: u8| signals::name(number).or_else(|| signals::name(number & 0x7f));
    match (what.parse::<u8>(), signals::parse(what)) {
        (Ok(number), _) => match of_status(number) {
            Some(name) => writeln!(stdout, "{name}")?,
            None => return Err(usage(format!("{what} is neither a signal nor a status"))),
        },
        (Err(_), Some(number)) => writeln!(stdout, "{number}")?,
        (Err(_), None) => return Err(usage(format!("unknown signal {what:?}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parsed(arguments: &str) -> Result<(u8, Vec<KillTarget>), u8> {
        let cli = Cli::try_parse_from(format!("dunix kill {arguments}").split(' ')).unwrap();
        let Command::Kill(args) = cli.command else { panic!("not kill") };
        let (signal, targets) = parse(&args).map_err(|failure| failure.status)?;
        Ok((signal, targets.into_iter().map(|(_, target)| target).collect()))
    }

    #[test]
    fn arguments_are_those_of_kill() {
        let process = |pid| KillTarget::Process(Pid::new(pid).unwrap());
        let group = |pid| KillTarget::Group(Pid::new(pid).unwrap());
        assert_eq!(parsed("7"), Ok((15, vec![process(7)])));
        assert_eq!(parsed("-9 7 8"), Ok((9, vec![process(7), process(8)])));
        assert_eq!(parsed("-INT -- -7"), Ok((2, vec![group(7)])));
        assert_eq!(parsed("-TERM -7"), Ok((15, vec![group(7)])));
        assert_eq!(parsed("-s SIGHUP -7"), Ok((1, vec![group(7)])));
        assert_eq!(parsed("-s 0 7"), Ok((0, vec![process(7)])));
        assert_eq!(parsed("-7"), Ok((15, vec![group(7)])));
        for wrong in ["-NONE 7", "0", "x", "-s 99 7"] {
            assert_eq!(parsed(wrong), Err(EXIT_USAGE), "{wrong}");
        }
    }
}
