//! What the view knows and how keys change it: keys, snapshots and answers in, rows and requests out.
//!
//! ```text
//! List --/--> Filter --Enter, Esc--> List
//!      --k--> Menu(Signal) --Enter--> Action::Kill
//!      --m--> Menu(Node)   --Enter--> Action::Move
//!      --?, answers--> Text --any other key--> List
//! ```
//!
//! Invariant: a selection that a key made follows its process; when that is gone, it stays at its place in the list.
//! Before the first such key it stays on the first row.

use super::rows::{self, Choice, Column, Row, Shares};
use crate::commands::{signals, table};
use dunix_admin_api::{NodeInfo, NodeState, ProcessInfo};
use dunix_ids::{NodeId, Pid};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Greatest characters of a filter; further ones are not taken.
const FILTER_CHARS_MAX: usize = 64;
/// Signals that the menu offers, the first one chosen.
const SIGNALS: [&str; 10] =
    ["TERM", "KILL", "INT", "HUP", "QUIT", "STOP", "CONT", "USR1", "USR2", "ABRT"];

/// The keys, as `?` shows them.
pub(super) const HELP: &str = "\
Up Down PgUp PgDn Home End   choose a process
t            tree
s > <        sort by the next, the next, the previous column
/ F4         show commands that contain a text; Esc shows all
n            only the process's node; again: all
k            send a signal
m            move to another node
w e          why it is here (dunix explain)
q F10 ^C     quit";

/// The fabric at one time.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// Milliseconds since the view began.
    pub(super) at_ms: u64,
    pub(super) nodes: Vec<NodeInfo>,
    pub(super) processes: Vec<ProcessInfo>,
}

/// What a key asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Quit,
    Kill { pid: Pid, signal: u8, name: String },
    Move { pid: Pid, node: String },
    Explain(Pid),
}

/// What is on top of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    List,
    /// A filter is being typed.
    Filter,
    Menu(Menu),
    Text {
        title: String,
        lines: Vec<String>,
        scroll: usize,
    },
}

/// A choice of something for a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Menu {
    pub(super) kind: MenuKind,
    pub(super) pid: Pid,
    pub(super) items: Vec<String>,
    pub(super) at: usize,
}

/// What a menu chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MenuKind {
    Signal,
    Node,
}

/// The view's state.
pub(super) struct Top {
    snapshot: Snapshot,
    shares: Shares,
    rows: Vec<Row>,
    selected: Option<Pid>,
    /// A key has chosen a process.
    follows: bool,
    at: usize,
    page: usize,
    pub(super) sort: Column,
    pub(super) tree: bool,
    pub(super) filter: String,
    only: Option<NodeId>,
    pub(super) mode: Mode,
    pub(super) note: String,
}

impl Top {
    pub(super) fn new(snapshot: Snapshot) -> Top {
        let mut top = Top {
            snapshot,
            shares: Shares::new(),
            rows: Vec::new(),
            selected: None,
            follows: false,
            at: 0,
            page: 1,
            sort: Column::Cpu,
            tree: false,
            filter: String::new(),
            only: None,
            mode: Mode::List,
            note: String::new(),
        };
        top.lay_out();
        top
    }

    pub(super) fn nodes(&self) -> &[NodeInfo] {
        &self.snapshot.nodes
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Where the selection stands; `None` if there is nothing to select.
    pub(super) fn at(&self) -> Option<usize> {
        (!self.rows.is_empty()).then_some(self.at)
    }

    /// The name of the only node that is shown.
    pub(super) fn only(&self) -> Option<String> {
        let only = self.only?;
        let node = self.snapshot.nodes.iter().find(|node| node.id == only);
        Some(node.map_or_else(|| only.to_string(), |node| table::printable(&node.name)))
    }

    /// Takes the number of rows that the terminal shows.
    pub(super) fn handle_page(&mut self, rows: usize) {
        self.page = rows.max(1);
    }

    pub(super) fn handle_snapshot(&mut self, snapshot: Snapshot) {
        let elapsed_ms = snapshot.at_ms.saturating_sub(self.snapshot.at_ms);
        self.shares = rows::shares(&self.snapshot.processes, &snapshot.processes, elapsed_ms);
        self.snapshot = snapshot;
        self.lay_out();
    }

    pub(super) fn handle_note(&mut self, note: String) {
        self.note = table::printable(&note);
    }

    pub(super) fn handle_text(&mut self, title: String, text: &str) {
        let lines = text.lines().map(table::printable).collect();
        self.mode = Mode::Text { title, lines, scroll: 0 };
    }

    pub(super) fn handle_key(&mut self, key: KeyEvent) -> Option<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Action::Quit);
        }
        match &mut self.mode {
            Mode::List => self.handle_list_key(key.code),
            Mode::Filter => self.handle_filter_key(key.code),
            Mode::Menu(_) => self.handle_menu_key(key.code),
            Mode::Text { lines, scroll, .. } => {
                let end = lines.len().saturating_sub(1);
                match step(key.code, *scroll, end, self.page) {
                    Some(to) => *scroll = to,
                    None => self.mode = Mode::List,
                }
                None
            }
        }
    }

    fn handle_list_key(&mut self, code: KeyCode) -> Option<Action> {
        self.note.clear();
        if let Some(to) = step(code, self.at, self.rows.len().saturating_sub(1), self.page) {
            self.select(to);
            self.follows = true;
            return None;
        }
        match code {
            KeyCode::Char('q') | KeyCode::F(10) => return Some(Action::Quit),
            KeyCode::Char('w' | 'e') => return self.selected.map(Action::Explain),
            KeyCode::Char('k') | KeyCode::F(9) => self.open_signals(),
            KeyCode::Char('m') => self.open_nodes(),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.handle_text("Keys".to_owned(), HELP),
            KeyCode::Char('/') | KeyCode::F(4) => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('t') | KeyCode::F(5) => self.tree = !self.tree,
            KeyCode::Char('s' | '>') => self.sort = self.sort.step(1),
            KeyCode::Char('<') => self.sort = self.sort.step(Column::ALL.len() - 1),
            KeyCode::Char('n') => self.only = self.toggled_node(),
            _ => return None,
        }
        self.lay_out();
        None
    }

    fn handle_filter_key(&mut self, code: KeyCode) -> Option<Action> {
        match code {
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(char) if self.filter.chars().count() < FILTER_CHARS_MAX => {
                self.filter.push(char);
            }
            _ => return None,
        }
        self.lay_out();
        None
    }

    fn handle_menu_key(&mut self, code: KeyCode) -> Option<Action> {
        let Mode::Menu(menu) = &mut self.mode else { return None };
        if let Some(to) = step(code, menu.at, menu.items.len().saturating_sub(1), menu.items.len())
        {
            menu.at = to;
            return None;
        }
        let action = match code {
            KeyCode::Enter => menu.action(),
            KeyCode::Esc | KeyCode::Char('q') => None,
            _ => return None,
        };
        self.mode = Mode::List;
        action
    }

    fn open_signals(&mut self) {
        let items = SIGNALS.map(str::to_owned).to_vec();
        self.open_menu(MenuKind::Signal, items);
    }

    /// Offers the nodes that a process could go to.
    fn open_nodes(&mut self) {
        let here = self.selected_process().map(|process| process.node);
        let can = |node: &&NodeInfo| node.state == NodeState::Up && Some(node.id) != here;
        let items: Vec<String> =
            self.snapshot.nodes.iter().filter(can).map(|node| node.name.clone()).collect();
        if items.is_empty() {
            self.handle_note("there is no other node to move to".to_owned());
        } else {
            self.open_menu(MenuKind::Node, items);
        }
    }

    fn open_menu(&mut self, kind: MenuKind, items: Vec<String>) {
        if let Some(pid) = self.selected {
            self.mode = Mode::Menu(Menu { kind, pid, items, at: 0 });
        }
    }

    fn toggled_node(&self) -> Option<NodeId> {
        match self.only {
            Some(_) => None,
            None => self.selected_process().map(|process| process.node),
        }
    }

    fn selected_process(&self) -> Option<&ProcessInfo> {
        let pid = self.selected?;
        self.snapshot.processes.iter().find(|process| process.pid == pid)
    }

    fn select(&mut self, at: usize) {
        self.at = at.min(self.rows.len().saturating_sub(1));
        self.selected = self.rows.get(self.at).map(|row| row.pid);
    }

    fn lay_out(&mut self) {
        let filter = self.filter.to_lowercase();
        let choice = Choice { sort: self.sort, tree: self.tree, filter: &filter, node: self.only };
        let Snapshot { nodes, processes, .. } = &self.snapshot;
        self.rows = rows::rows(processes, nodes, &self.shares, &choice);
        let is_selected = |row: &Row| self.follows && Some(row.pid) == self.selected;
        let found = self.rows.iter().position(is_selected);
        self.select(found.unwrap_or(self.at));
    }
}

impl Menu {
    fn action(&self) -> Option<Action> {
        let (pid, item) = (self.pid, self.items.get(self.at)?.clone());
        match self.kind {
            MenuKind::Node => Some(Action::Move { pid, node: item }),
            MenuKind::Signal => {
                let signal = signals::parse(&item)?;
                Some(Action::Kill { pid, signal, name: item })
            }
        }
    }
}

/// Where a key leads in a list that ends at `end`; `None` for other keys.
fn step(code: KeyCode, at: usize, end: usize, page: usize) -> Option<usize> {
    let to = match code {
        KeyCode::Up => at.saturating_sub(1),
        KeyCode::Down => at + 1,
        KeyCode::PageUp => at.saturating_sub(page),
        KeyCode::PageDown => at + page,
        KeyCode::Home => 0,
        KeyCode::End => end,
        _ => return None,
    };
    Some(to.min(end))
}

#[cfg(test)]
mod tests;
