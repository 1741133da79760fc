"""Who I am: keeps tokens fresh and implements `api.caller.AuthProvider`."""
