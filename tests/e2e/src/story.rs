//! What a story is.

use std::pin::Pin;

use crate::world::World;

/// One story.
pub struct Story {
    /// Its number, or the id of the fault it is about.
    pub id: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// See [`Story::tell`].
    pub teller: for<'w> fn(&'w World) -> Pin<Box<dyn Future<Output = ()> + 'w>>,
}

impl Story {
    /// Tells it; panics when it does not come true.
    pub fn tell<'w>(&self, world: &'w World) -> Pin<Box<dyn Future<Output = ()> + 'w>> {
        (self.teller)(world)
    }
}

/// Lists the stories of a module: id, function, title.
macro_rules! stories {
    ($($id:tt $name:path: $title:literal;)*) => {
        /// Every story of this set, in order.
        pub fn all() -> Vec<$crate::story::Story> {
            vec![$($crate::story::Story { id: stringify!($id), title: $title, teller: |world| Box::pin($name(world)) }),*]
        }
    };
}

pub(crate) use stories;
