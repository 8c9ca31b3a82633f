use super::super::draw;
use super::*;
use dunix_admin_api::{ProcessState, Traffic};
use ratatui::{Terminal, backend::TestBackend};

fn node(number: u32) -> NodeInfo {
    NodeInfo {
        id: NodeId(number),
        name: format!("n{number}"),
        state: NodeState::Up,
        answering: number == 1,
        tree_authority: number == 1,
        address: String::new(),
        cpus_milli: 2000,
        load_milli: Some(1000),
        processes: 2,
        memory_bytes_total: 4 << 30,
        memory_bytes_free: 3 << 30,
        rtt_us: None,
        traffic: Traffic::default(),
    }
}

fn process(pid: u32, ppid: u32, node: u32, cpu_ms: u64, command: &str) -> ProcessInfo {
    let id = |raw| Pid::new(raw).unwrap();
    ProcessInfo {
        pid: id(pid),
        ppid: id(ppid),
        pgid: id(pid),
        sid: id(pid),
        node: NodeId(node),
        host_pid: None,
        uid: 0,
        state: ProcessState::Sleeping,
        threads: 1,
        started_unix_ms: 0,
        cpu_ms,
        resident_bytes: u64::from(pid) << 20,
        terminal: None,
        comm: command.to_owned(),
        args: command.split(' ').map(str::to_owned).collect(),
    }
}

fn snapshot(at_ms: u64, processes: Vec<ProcessInfo>) -> Snapshot {
    Snapshot { at_ms, nodes: vec![node(1), node(2)], processes }
}

fn family(cpu_ms: u64) -> Vec<ProcessInfo> {
    vec![
        process(2, 1, 1, 10, "bash"),
        process(3, 2, 2, cpu_ms, "make -j2"),
        process(4, 1, 1, 500, "Xsleep 100"),
        process(5, 3, 2, 20, "cc1 main.c"),
    ]
}

/// A view whose last second was `make`'s: half a CPU.
fn view() -> Top {
    let mut top = Top::new(snapshot(0, family(1000)));
    top.handle_snapshot(snapshot(1000, family(1500)));
    top.handle_page(2);
    top
}

fn keys(top: &mut Top, text: &str) -> Option<Action> {
    text.chars().map(|c| press(top, KeyCode::Char(c))).last().flatten()
}

fn press(top: &mut Top, code: KeyCode) -> Option<Action> {
    top.handle_key(code.into())
}

fn pids(top: &Top) -> Vec<u32> {
    top.rows().iter().map(|row| row.pid.get()).collect()
}

fn selected(top: &Top) -> Option<u32> {
    top.at().map(|at| top.rows()[at].pid.get())
}

fn pid(raw: u32) -> Pid {
    Pid::new(raw).unwrap()
}

#[test]
fn the_busiest_comes_first_with_its_share() {
    let top = view();
    assert_eq!(pids(&top), [3, 2, 4, 5]);
    assert_eq!(top.rows()[0].cells[4], "50.0");
}

#[test]
fn a_pid_used_again_counts_from_then_on() {
    let mut top = view();
    let mut again = family(1500);
    again[1].started_unix_ms = 7;
    again[1].cpu_ms = 9000;
    top.handle_snapshot(snapshot(2000, again));
    assert!(top.rows().iter().all(|row| row.cells[4] == "0.0"));
}

#[test]
fn the_selection_follows_its_process() {
    let mut top = view();
    press(&mut top, KeyCode::Down);
    assert_eq!(selected(&top), Some(2));
    keys(&mut top, "<"); // by state, then PID
    assert_eq!((pids(&top), selected(&top)), (vec![2, 3, 4, 5], Some(2)));
    press(&mut top, KeyCode::End);
    assert_eq!(selected(&top), Some(5));
    // The last process ends: the one that is last then is chosen.
    let rest = family(1500)[..3].to_vec();
    top.handle_snapshot(snapshot(2000, rest));
    assert_eq!(selected(&top), Some(4));
    top.handle_snapshot(snapshot(3000, Vec::new()));
    assert_eq!((selected(&top), keys(&mut top, "w")), (None, None));
    assert_eq!(keys(&mut top, "k"), None);
    assert_eq!(top.mode, Mode::List);
}

#[test]
fn pages_end_at_the_ends() {
    let mut top = view();
    press(&mut top, KeyCode::PageDown);
    assert_eq!(top.at(), Some(2));
    press(&mut top, KeyCode::PageDown);
    assert_eq!(top.at(), Some(3));
    press(&mut top, KeyCode::PageUp);
    assert_eq!(top.at(), Some(1));
    press(&mut top, KeyCode::Home);
    press(&mut top, KeyCode::Up);
    assert_eq!(top.at(), Some(0));
}

#[test]
fn a_filter_takes_effect_while_it_is_typed() {
    let mut top = view();
    keys(&mut top, "/xs");
    assert_eq!((pids(&top), selected(&top)), (vec![4], Some(4)));
    // Keys of the list are letters here.
    keys(&mut top, "q");
    assert!(pids(&top).is_empty());
    press(&mut top, KeyCode::Backspace);
    press(&mut top, KeyCode::Enter);
    assert_eq!(pids(&top), [4]);
    press(&mut top, KeyCode::Esc);
    assert_eq!(pids(&top).len(), 4);
}

#[test]
fn one_node_and_all_again() {
    let mut top = view();
    keys(&mut top, "n");
    assert_eq!((pids(&top), top.only()), (vec![3, 5], Some("n2".to_owned())));
    keys(&mut top, "n");
    assert_eq!(pids(&top).len(), 4);
}

#[test]
fn the_tree_indents_children() {
    let mut top = view();
    keys(&mut top, "t");
    assert_eq!(pids(&top), [2, 3, 5, 4]);
    assert_eq!(top.rows()[2].cells[7], "    cc1 main.c");
}

#[test]
fn the_menu_chooses_a_signal() {
    let mut top = view();
    keys(&mut top, "k");
    // Another process becomes the busiest meanwhile: the menu is still about the same one.
    top.handle_snapshot(snapshot(2000, family(1500)));
    press(&mut top, KeyCode::Down);
    let kill = press(&mut top, KeyCode::Enter);
    assert_eq!(kill, Some(Action::Kill { pid: pid(3), signal: 9, name: "KILL".to_owned() }));
    assert_eq!(top.mode, Mode::List);
    keys(&mut top, "k");
    assert_eq!(press(&mut top, KeyCode::Esc), None);
    assert_eq!(top.mode, Mode::List);
}

#[test]
fn every_signal_of_the_menu_is_known() {
    assert!(SIGNALS.iter().all(|name| signals::parse(name).is_some()));
}

#[test]
fn the_menu_offers_other_nodes() {
    let mut top = view();
    press(&mut top, KeyCode::Home);
    keys(&mut top, "m");
    let to = press(&mut top, KeyCode::Enter);
    assert_eq!(to, Some(Action::Move { pid: pid(3), node: "n1".to_owned() }));
    let mut alone = snapshot(2000, family(1500));
    alone.nodes.retain(|node| node.id == NodeId(2));
    top.handle_snapshot(alone);
    assert_eq!((keys(&mut top, "m"), &top.mode), (None, &Mode::List));
    assert!(top.note.contains("no other node"));
}

#[test]
fn ends_by_q_and_by_control_c_from_anywhere() {
    let mut top = view();
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for open in ["", "/", "k", "?"] {
        keys(&mut top, open);
        assert_eq!(top.handle_key(control_c), Some(Action::Quit), "{open}");
        press(&mut top, KeyCode::Esc);
    }
    assert_eq!(keys(&mut top, "q"), Some(Action::Quit));
}

fn screen(top: &mut Top, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw::draw(frame, top, &mut 0)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn shows_nodes_above_processes() {
    let shown = screen(&mut view(), 100, 12);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].contains("n1       up"), "{shown}");
    assert!(
        lines[0].contains("[||||||||        ]  1.00 of 2.00  mem [||||            ]"),
        "{shown}"
    );
    assert!(lines[2].contains("CPU%*"), "{shown}");
    assert!(lines[3].contains("50.0") && lines[3].contains("make -j2"), "{shown}");
    assert!(lines[11].contains("q quit"), "{shown}");
}

#[test]
fn shows_what_is_known_and_scrolls_it() {
    let mut top = view();
    assert_eq!(keys(&mut top, "w"), Some(Action::Explain(pid(3))));
    top.handle_text("Why here: 3".to_owned(), "placed  by load\nstate \x1b[2J");
    let shown = screen(&mut top, 60, 12);
    assert!(shown.contains("Why here: 3") && shown.contains("placed  by load"), "{shown}");
    assert!(shown.contains("state ?[2J"), "{shown}");
    press(&mut top, KeyCode::Down);
    assert!(!screen(&mut top, 60, 12).contains("placed"));
    keys(&mut top, "x");
    assert_eq!(top.mode, Mode::List);
}

#[test]
fn the_smallest_terminals_show_something() {
    for open in ["", "k", "?", "/"] {
        for size in 1..12 {
            let mut top = view();
            keys(&mut top, open);
            screen(&mut top, size, size);
            screen(&mut top, 80, size);
        }
    }
}
