"""What a limiter costs a web application, and its user: applications under real web servers, and their load."""
