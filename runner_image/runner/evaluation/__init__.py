"""What a request asks for: arguments read, namepaths resolved and called, values kept and composed."""
