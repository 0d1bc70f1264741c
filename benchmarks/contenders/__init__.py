"""What is compared: floors, this library and its peers, all behind one interface. Imports no other room."""
