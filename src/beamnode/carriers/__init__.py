"""How bytes travel: the only home of sockets beside node/."""
